"""The embedded world: a small generated English assistant whose every answer can be checked.

* `words`       the vocabulary: names, places, things in four categories, opposites, numbers, stock phrases
* `kinds`       ten kinds of instruction: how one is asked, which answers are right, how people typically get it wrong
* `gold`        the true reward, known to the project and never trained on
* `speakers`    how answers sound: manners, flattery, rambling, and how often they are wrong
* `annotators`  simulated people who compare two answers, with noise and two small biases
* `generate`    writes the raw data of a run

docs/world.md tells the same story in prose.
"""
