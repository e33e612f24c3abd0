"""MLflow beside the registry: a workload's versions and aliases, logged to a tracking server and read from there.

Optional, by `pip install millrace[mlflow]`; the one module that imports it. What counts for running jobs is the
registry. In MLflow a workload is a registered model, and each version a run with its metrics and its folder.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from models import artifact as artifacts
from models.artifact import Artifact
from models.registry import Registry
from schemas.errors import DefinitionError, Unavailable

FOLDER, VERSION, CHAMPION, CHALLENGER = "model", "millrace.version", "champion", "challenger-"


class Tracking:
    """The tracking server at `uri`: http(s), a database, or file:// where MLflow allows it.

    DefinitionError where MLflow is not installed or knows no such model, Unavailable where the server says no.
    """

    def __init__(self, uri: str) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError as error:
            raise DefinitionError(f"MLflow at {uri}: {error}; `pip install millrace[mlflow]` brings it") from error
        self.uri, self._error = uri, MlflowException
        with self._reached():
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def log(self, registry: Registry, workload: str) -> list[str]:
        """Log the versions that are not there yet, and make its aliases those of `registry`; returns what was new."""
        client, now = self._client, registry.aliases(workload)
        with self._reached():
            if not any(model.name == workload for model in client.search_registered_models(f"name='{workload}'")):
                client.create_registered_model(workload)
            numbers = self._numbers(workload)
            new = [entry.version for entry in registry.versions(workload) if entry.version not in numbers]
            for version in new:
                numbers[version] = self._logged(registry, workload, version)
            wanted = {f"{CHALLENGER}{i}": version for i, version in enumerate(now.challengers, 1)}
            wanted |= {CHAMPION: now.champion} if now.champion else {}
            wanted = {alias: version for alias, version in wanted.items() if version in numbers}  # else it is damaged
            for alias, version in wanted.items():
                client.set_registered_model_alias(workload, alias, numbers[version])
            for alias in self.aliases(workload):
                if alias not in wanted and (alias == CHAMPION or alias.startswith(CHALLENGER)):
                    client.delete_registered_model_alias(workload, alias)
        return new

    def aliases(self, workload: str) -> dict[str, str]:
        """The version of each alias; those of other people, too."""
        with self._reached():
            names = {str(number): version for version, number in self._numbers(workload).items()}
            found = self._client.get_registered_model(workload).aliases
        return {alias: names[str(number)] for alias, number in found.items() if str(number) in names}

    def get(self, workload: str, name: str) -> Artifact:
        """The artifact of an alias or version, its bytes verified."""
        version = self.aliases(workload).get(name, name)
        numbers = self._numbers(workload)
        if version not in numbers:
            raise DefinitionError(f"MLflow at {self.uri}, {workload}: found no {name!r}, only {', '.join(numbers)}")
        with self._reached(), TemporaryDirectory() as kept:
            run = self._client.get_model_version(workload, numbers[version]).run_id
            return artifacts.load(Path(self._client.download_artifacts(run, FOLDER, kept)))

    def _numbers(self, workload: str) -> dict[str, Any]:
        """MLflow's number of each version."""
        found = self._client.search_model_versions(f"name='{workload}'")
        return {one.tags[VERSION]: one.version for one in found if VERSION in one.tags}

    def _logged(self, registry: Registry, workload: str, version: str) -> Any:
        client, entry = self._client, registry.entry(workload, version)
        experiment = client.get_experiment_by_name(f"millrace.{workload}")
        id = experiment.experiment_id if experiment else client.create_experiment(f"millrace.{workload}")
        run = client.create_run(id, run_name=version, tags={VERSION: version}).info
        for name in ("sha256", "schema", "parent", "range", "by", "created"):
            client.log_param(run.run_id, name, getattr(entry, name))
        for name, value in (entry.metrics | entry.measured).items():
            if math.isfinite(value):
                client.log_metric(run.run_id, name, value)
        with TemporaryDirectory() as kept:
            client.log_artifacts(run.run_id, str(registry.get(workload, version).save(Path(kept))), FOLDER)
        client.set_terminated(run.run_id)
        source, tags = f"{run.artifact_uri}/{FOLDER}", {VERSION: version}
        return client.create_model_version(workload, source, run.run_id, tags=tags).version

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """What MLflow says as ours."""
        try:
            yield
        except self._error as error:
            raise Unavailable(f"MLflow at {self.uri}: {error}") from error
