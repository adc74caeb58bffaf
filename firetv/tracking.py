"""Sweeps logged to MLflow, for those who have it: the extra ``mlflow``, off by default."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from firetv.sweeps import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from firetv.artefacts import Artefact

SET = "firetv_set"  # tag: which set, of which notebook and code
LONGEST_VALUE = 6000  # characters of a parameter that MLflow takes


@dataclass(frozen=True)
class MLflow:
    """Logs each set of a sweep as a run; a set that is there already is not logged again.

    Attributes
    ----------
    uri : str
        Of the tracking server, or a database such as ``sqlite:///mlflow.db``.
    experiment : str
        Made where it is missing.

    Raises
    ------
    ValueError
        When it is first used, if MLflow is not installed or cannot be reached.
    """

    uri: str
    experiment: str

    @cached_property
    def client(self) -> MlflowClient:
        """What talks to the server."""
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise ValueError(
                "MLflow is not installed. Install it: pip install -e '.[mlflow]'."
            ) from error
        return MlflowClient(tracking_uri=self.uri)

    @cached_property
    def experiment_id(self) -> str:
        """Id of the experiment."""
        client = self.client
        from mlflow.exceptions import MlflowException

        try:
            found = client.get_experiment_by_name(self.experiment)
            return found.experiment_id if found else client.create_experiment(self.experiment)
        except MlflowException as error:
            raise ValueError(f"{self.uri}: {error}") from error

    def __call__(self, name: str, run: Run, artefact: Artefact | None, folder: Path) -> None:
        """Log a set; see :class:`firetv.sweeps.Log`."""
        mark = f"{name} {run.notebook[:12]} {run.code[:12]}"
        same = f"tags.{SET} = '{mark}' and attributes.status = 'FINISHED'"
        if self.client.search_runs([self.experiment_id], same, max_results=1):
            return
        logged = self.client.create_run(self.experiment_id, tags={SET: mark}, run_name=name)
        key = logged.info.run_id
        for parameter, value in run.parameters.items():
            self.client.log_param(key, parameter, str(value)[:LONGEST_VALUE])
        self.client.log_metric(key, "seconds", run.seconds)
        rows = () if artefact is None else artefact.results.to_dict("records")
        for row in rows:
            self.client.log_metric(key, metric_name(row), row["value"])
        if run.error:
            self.client.set_tag(key, "error", run.error)
        if run.executed:
            self.client.log_artifact(key, str(folder / run.executed))
        self.client.set_terminated(key, "FAILED" if run.error else "FINISHED")


def metric_name(row: dict[str, object]) -> str:
    """Name a result as MLflow allows it: ``section/model/split/metric``.

    Examples
    --------
    >>> metric_name({"section": "a", "model": "ALS (64)", "split": "s", "metric": "ndcg@10"})
    'a/ALS _64_/s/ndcg_10'
    """
    text = "/".join(str(row[part]) for part in ("section", "model", "split", "metric"))
    return re.sub(r"[^\w ./-]", "_", text)
