"""The DVC cache, read by digest: `tasks.dvc_cache`, under the name by which the flows know it."""

from tasks.dvc_cache import files_of, link_folder, listing, object_path

__all__ = ["files_of", "link_folder", "listing", "object_path"]
