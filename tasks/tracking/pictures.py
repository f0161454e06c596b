"""Plots, tables and curves where one looks for them: on the parent run too, and on the light run of a cached stage."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from tasks.tracking.values import chunks

PLOTS = "plots"
_TABLES = "mlflow.loggedArtifacts"
_OF_THAT_RUN = ("system/", "final/", "eval")  # said of the light run too, or true of the other alone


def copy_shown(client: Any, origin: str, child: str) -> None:
    """Have a light run show the curves, tables and plots of the run that made its bytes."""
    made = client.get_run(origin)
    names = [name for name in made.data.metrics if not name.startswith(_OF_THAT_RUN)]
    for points in chunks((point for name in names for point in client.get_metric_history(origin, name)), 1000):
        client.log_batch(child, metrics=points)
    with _files(client, origin, "") as files:
        tables = [path for path in files if path.suffix == ".json"]
        for path in tables:
            client.log_artifact(child, str(path))
    with _files(client, origin, PLOTS) as files:
        for path in files:
            client.log_artifact(child, str(path), PLOTS)
    if tables and _TABLES in made.data.tags:
        client.set_tag(child, _TABLES, made.data.tags[_TABLES])


def gather(client: Any, children: Mapping[str, str], parent: str) -> None:
    """Plots of all stages on the parent: as files, and as images, which MLflow lays side by side over runs."""
    from PIL import Image

    shown = {_key(file.path) for file in client.list_artifacts(parent, "images")}
    for stage, child in children.items():
        with _files(client, child, PLOTS) as files:
            for path in files:
                name = f"{stage} {path.stem.replace('_', ' ')}"
                client.log_artifact(parent, str(path), PLOTS)
                if f"{PLOTS}~{name}" not in shown:  # an image has a name of its own each time
                    with Image.open(path) as image:
                        client.log_image(parent, image, key=f"{PLOTS}/{name}", step=0, synchronous=True)


@contextmanager
def _files(client: Any, run: str, folder: str) -> Iterator[list[Path]]:
    """Copies of the files in one folder of a run's artifacts; those that somebody has deleted since are left out."""
    with TemporaryDirectory() as place:
        found = []
        for file in client.list_artifacts(run, folder or None):
            if not file.is_dir:
                with suppress(Exception):  # stores raise what their libraries raise; a plot is worth no failed record
                    found.append(Path(client.download_artifacts(run, file.path, place)))
        yield found


def _key(path: str) -> str:
    """`plots~rl reward` of `images/plots~rl reward+step+0+…`, as MLflow names images."""
    return PurePosixPath(path).name.partition("+step+")[0]
