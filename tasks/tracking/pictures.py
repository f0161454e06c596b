"""Plots, tables and curves where one looks for them: on the parent run too, and on the light run of a cached stage.

Nothing is drawn twice: what the run shows that made the bytes is copied.
"""

from collections.abc import Mapping, Set
from pathlib import Path

from tasks.tracking.artifacts import add, files, name_in, note
from tasks.tracking.curves import copy_curves
from tasks.tracking.store import Store

PLOTS, IMAGES = "plots", "images"
_TABLES, _LOGGED, _PARENT = "mlflow.loggedArtifacts", "mlflow.loggedImages", "mlflow.parentRunId"
_OF_THAT_RUN = ("system/", "final/", "eval", "cost")  # said of the light run too, or true of the other alone


def copy_shown(store: Store, origin: str, child: str) -> str | None:
    """Have a light run show the curves, tables and plots of the run that made its bytes; returns that one's parent."""
    client = store.client
    made = client.get_run(origin)
    copy_curves(store, origin, child, [name for name in made.data.metrics if not name.startswith(_OF_THAT_RUN)])
    with files(store, origin, "", lambda name: name.endswith(".json")) as tables:
        add(store, child, tables)
        if tables and _TABLES in made.data.tags:
            client.set_tag(child, _TABLES, made.data.tags[_TABLES])
    with files(store, origin, PLOTS) as plots:
        add(store, child, plots, PLOTS)
    parent: str | None = made.data.tags.get(_PARENT)
    return parent


def gather(store: Store, children: Mapping[str, str], parent: str, shown_by: Mapping[str, str]) -> None:
    """Plots of all stages on the parent: as files, and as images, which MLflow lays side by side over runs.

    Args:
        children: the run of each stage.
        shown_by: of a cached stage the parent that may have its images already.
    """
    with files(store, parent, IMAGES) as images:
        shown = {_key(path.name) for path in images}
    for stage, child in children.items():
        with files(store, child, PLOTS) as plots:
            add(store, parent, plots, PLOTS)
            fresh = {f"{PLOTS}~{stage} {path.stem.replace('_', ' ')}": path for path in plots}
            missing = fresh.keys() - shown  # by key, as an image has a name of its own each time
            if missing and stage in shown_by:
                missing -= _copy_images(store, shown_by[stage], parent, missing)
            for key in sorted(missing):
                _draw(store, parent, key.replace("~", "/", 1), fresh[key])
    known = store.sums.keys()  # not yet what was drawn, as MLflow names that itself
    with files(store, parent, IMAGES, lambda name: name_in(parent, f"{IMAGES}/{name}") not in known) as images:
        note(store, parent, images, IMAGES)


def _copy_images(store: Store, other: str, parent: str, wanted: Set[str]) -> set[str]:
    """Give a run the images of these keys that another has; the keys that it had."""
    with files(store, other, IMAGES, lambda name: _key(name) in wanted) as images:
        add(store, parent, images, IMAGES)
        found = {_key(path.name) for path in images}
    if found:
        store.client.set_tag(parent, _LOGGED, True)  # as `log_image` says it
    return found


def _draw(store: Store, parent: str, key: str, path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        store.client.log_image(parent, image, key=key, step=0, synchronous=True)


def _key(name: str) -> str:
    """`plots~rl reward` of `plots~rl reward+step+0+…`, as MLflow names images."""
    return name.partition("+step+")[0]
