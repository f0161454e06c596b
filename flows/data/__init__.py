"""`preflow data`: what files hold, before anything is trained on them."""
