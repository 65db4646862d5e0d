"""The registry as OpenLineage run events: what trained on which data, and which model serves where.

Called by the API, for catalogues that collect lineage. Pure. Each version is the one output of a
run that is complete; versions of one run give events of one run id. Each change of the version
that a deployment serves is a run too, from the model to the deployment. The form is that of
https://openlineage.io/spec/2-0-2/OpenLineage.json and of the facets named below.
"""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from modelplane.decisions.datasets import UNKNOWN, has_digest
from modelplane.decisions.lineage import data_of
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.resources.dataset import DatasetReference
from modelplane.resources.model import AliasMove, ModelVersion, Training

NAMESPACE = "modelplane"
PRODUCER = "https://modelplane.dev"
_SPEC = "https://openlineage.io/spec"
_EVENT = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs"
_RUNS = uuid.uuid5(uuid.NAMESPACE_URL, f"{PRODUCER}/runs")
_SCP_ADDRESS = re.compile(r"(?P<host>[^\s/:]+@?[^\s/:]*):(?P<path>[^\s]+)")

Json = dict[str, Any]


def run_event(version: ModelVersion, index: RegistryIndex, namespace: str = NAMESPACE) -> Json:
    """Return the event that says that a version was made.

    Parameters
    ----------
    version
        A model version; its ``spec.registered_at`` or creation is when the run was complete.
    index
        The registry, where data is looked up.
    namespace
        Of jobs and datasets; for a collector of several installations.

    Returns
    -------
    dict
        A ``RunEvent`` of type ``COMPLETE``. The job is ``MODEL.training``; data and models are
        ``datasets/NAME`` and ``models/NAME``, with the places where data lay as symlinks.
    """
    spec = version.spec
    output = {
        "namespace": namespace,
        "name": f"models/{spec.model}",
        "facets": _model_facets(version),
    }
    return {
        **_head(spec.registered_at or version.metadata.created_at),
        "run": {"runId": run_uuid(version), "facets": _run_facets(spec.training)},
        "job": {
            "namespace": namespace,
            "name": f"{spec.model}.training",
            "facets": _job_facets(spec.training),
        },
        "inputs": [_input(reference, index, namespace) for reference in spec.datasets],
        "outputs": [output],
    }


def is_deployment(move: AliasMove) -> bool:
    """Whether by a move a deployment came to serve a version."""
    spec = move.spec
    return spec.alias == "champion" and None not in (spec.environment, spec.after)


def deployment_event(move: AliasMove, namespace: str = NAMESPACE) -> Json:
    """Return the event that says that a deployment came to serve a version.

    Parameters
    ----------
    move
        One for which `is_deployment` holds.
    namespace
        As for `run_event`.

    Returns
    -------
    dict
        A ``RunEvent`` of type ``COMPLETE``. The job is ``ENVIRONMENT.DEPLOYMENT.deployment``, the
        input ``models/NAME``, the output ``deployments/ENVIRONMENT/DEPLOYMENT``, both with the
        version.
    """
    spec = move.spec
    told = {"subject": spec.subject, "reason": spec.reason, "promotion": spec.promotion}
    facets = {"version": _version_facet(spec.after or UNKNOWN)}
    served = f"deployments/{spec.environment}/{spec.deployment}"
    return {
        **_head(spec.at),
        "run": {
            "runId": str(uuid.uuid5(_RUNS, f"deployment of {move.metadata.name}")),
            "facets": {"modelplane_deployment": _own_facet("RunFacet", told)},
        },
        "job": {
            "namespace": namespace,
            "name": f"{spec.environment}.{spec.deployment}.deployment",
            "facets": {"jobType": _job_type("DEPLOYMENT")},
        },
        "inputs": [{"namespace": namespace, "name": f"models/{spec.model}", "facets": facets}],
        "outputs": [{"namespace": namespace, "name": served, "facets": facets}],
    }


def _head(at: datetime | None) -> Json:
    return {
        "eventType": "COMPLETE",
        "eventTime": at.isoformat() if at is not None else "1970-01-01T00:00:00+00:00",
        "producer": PRODUCER,
        "schemaURL": f"{_EVENT}/RunEvent",
    }


def run_uuid(version: ModelVersion) -> str:
    """Return the run's id as a UUID: its own, or one made from the version's unique id.

    MLflow's run ids are UUIDs without dashes, and are found again by their digits.
    """
    try:
        return str(uuid.UUID(version.spec.training.run_id))
    except ValueError:
        pass
    run = version.spec.training.run_id
    named = run if run != UNKNOWN else version.spec.id or version.metadata.name
    return str(uuid.uuid5(_RUNS, named))


def _facet(name: str, /, **fields: Any) -> Json:
    """Return a facet of the specification; `name` is its version and type."""
    kind = name.rpartition("/")[2]
    schema = f"{_SPEC}/facets/{name}.json#/$defs/{kind}"
    return {"_producer": PRODUCER, "_schemaURL": schema, **fields}


def _own_facet(base: str, fields: Json) -> Json:
    """Return a facet of our own: the specification has none for it."""
    filled = {key: value for key, value in fields.items() if value not in (None, "", {}, UNKNOWN)}
    return {"_producer": PRODUCER, "_schemaURL": f"{_EVENT}/{base}", **filled}


def _run_facets(training: Training) -> Json:
    facets: Json = {
        "modelplane_training": _own_facet(
            "RunFacet",
            {
                "command": training.command,
                "directory": training.directory,
                "python": training.python,
                "hardware": training.hardware,
                "gitCommit": training.git_commit,
                "gitDirty": training.git_dirty,
            },
        )
    }
    if training.python != UNKNOWN:
        facets["processing_engine"] = _facet(
            "1-1-1/ProcessingEngineRunFacet", name="Python", version=training.python
        )
    return facets


def _job_facets(training: Training) -> Json:
    facets: Json = {"jobType": _job_type("TRAINING")}
    if training.git_remote != UNKNOWN:
        location = {
            "path": training.directory if training.directory != UNKNOWN else None,
            "version": training.git_commit if training.git_commit != UNKNOWN else None,
        }
        facets["sourceCodeLocation"] = _facet(
            "1-0-1/SourceCodeLocationJobFacet",
            type="git",
            url=_as_uri(training.git_remote),
            repoUrl=training.git_remote,
            **{key: value for key, value in location.items() if value is not None},
        )
    return facets


def _job_type(kind: str) -> Json:
    return _facet(
        "2-0-3/JobTypeJobFacet", processingType="BATCH", integration="MODELPLANE", jobType=kind
    )


def _input(reference: DatasetReference, index: RegistryIndex, namespace: str) -> Json:
    data = data_of(reference, index)
    facets: Json = {"version": _version_facet(data.label)} if data.label != UNKNOWN else {}
    if reference.columns:
        fields = [{"name": column.name, "type": column.type} for column in reference.columns]
        facets["schema"] = _facet("1-1-1/SchemaDatasetFacet", fields=fields)
    if reference.uri:
        # What describes a Delta table again ends in its version; others do not know that form.
        is_delta = reference.format == "delta"
        uri = _as_uri(re.sub(r"@\d+$", "", reference.uri) if is_delta else reference.uri)
        facets["dataSource"] = _facet("1-0-1/DatasourceDatasetFacet", name=data.dataset, uri=uri)
        place = _physical_name(uri)
        if place is not None:
            facets["symlinks"] = _facet("1-0-1/SymlinksDatasetFacet", identifiers=[place])
    facets["modelplane_data"] = _own_facet(
        "DatasetFacet",
        {
            "digest": reference.digest if has_digest(reference) else None,
            "format": reference.format,
            "context": reference.context,
        },
    )
    counts = {
        "rowCount": reference.rows,
        "size": reference.size_bytes,
        "fileCount": reference.files,
    }
    known = {key: value for key, value in counts.items() if value is not None}
    statistics = _facet("1-0-0/InputStatisticsInputDatasetFacet", **known)
    return {
        "namespace": namespace,
        "name": f"datasets/{data.dataset}",
        "facets": facets,
        **({"inputFacets": {"inputStatistics": statistics}} if known else {}),
    }


def _model_facets(version: ModelVersion) -> Json:
    spec = version.spec
    own = {
        "id": spec.id,
        "number": spec.number,
        "digest": spec.artifact.digest if spec.artifact else None,
        "flavour": spec.flavour,
        "metrics": spec.metrics,
        "parameters": spec.parameters,
        "deleted": True if version.status.deleted_at else None,
    }
    return {
        "version": _version_facet(spec.version),
        "datasetType": _facet("1-0-1/DatasetTypeDatasetFacet", datasetType="MODEL"),
        "modelplane_model": _own_facet("DatasetFacet", own),
    }


def _version_facet(version: str) -> Json:
    return _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=version)


def _as_uri(place: str) -> str:
    """Return a place as a URI: paths and addresses such as ``git@host:path`` are none yet."""
    if "://" in place:
        return quote(place, safe="%/:=&?~#+!$,;'@()*[]")
    address = _SCP_ADDRESS.fullmatch(place)
    if address and "@" in address["host"]:
        return f"ssh://{address['host']}/{quote(address['path'].lstrip('/'))}"
    return f"file://{quote(place)}" if place.startswith("/") else f"file:{quote(place)}"


def _physical_name(uri: str) -> Json | None:
    """Return a place under the names that other tools give it, None for relative paths."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        if not parts.path.startswith("/"):
            return None
        return {"namespace": "file", "name": unquote(parts.path), "type": "LOCATION"}
    name = unquote(parts.path.lstrip("/"))
    if not parts.netloc or not name:
        return None
    return {"namespace": f"{parts.scheme}://{parts.netloc}", "name": name, "type": "LOCATION"}
