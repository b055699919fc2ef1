"""What users ask of deployments."""

from operator import attrgetter

from msgspec.structs import replace

from kago.core.model.deployment import SPEC_FIELDS, TEMPLATE_FIELDS, Deployment
from kago.core.model.validation import check_spec
from kago.core.state.commands import CreateDeployment, DeleteDeployment, UpdateDeployment
from kago.core.state.handlers.draft import Draft, invalid
from kago.core.state.rejections import Accepted, Refusal, Rejection, Reply

_template_of = attrgetter(*TEMPLATE_FIELDS)


def create(draft: Draft, command: CreateDeployment) -> Reply:
    spec = command.spec
    if errors := check_spec(spec):
        return invalid(errors)
    if draft.deployment(spec.name) is not None:
        return Rejection(refusal=Refusal.ALREADY_EXISTS, detail=f"deployment {spec.name} exists already")
    wanted = {name: getattr(spec, name) for name in SPEC_FIELDS}
    draft.put_deployment(Deployment(**wanted, created_at=draft.at, spec_version=draft.index))
    return Accepted(name=spec.name, version=draft.index)


def update(draft: Draft, command: UpdateDeployment) -> Reply:
    deployment = _find(draft, command.name, command.if_match)
    if isinstance(deployment, Rejection):
        return deployment
    updated = replace(deployment, **command.patch.changes(deployment))
    if errors := check_spec(updated, known=deployment):
        return invalid(errors)
    if updated == deployment:
        return Accepted(name=deployment.name, version=deployment.version)
    if _template_of(updated) != _template_of(deployment):
        updated = replace(updated, revision=deployment.revision + 1, updated_replicas=0)
    draft.put_deployment(replace(updated, spec_version=draft.index))
    return Accepted(name=deployment.name, version=draft.index)


def delete(draft: Draft, command: DeleteDeployment) -> Reply:
    deployment = _find(draft, command.name, command.if_match)
    if isinstance(deployment, Rejection):
        return deployment
    draft.remove_deployment(deployment.name)
    pods = draft.tables.pods_of_deployment(deployment.name)
    stopped = sum(draft.stop_pod(pod, reason="DeploymentDeleted", message=f"deployment {deployment.name} was deleted") for pod in pods)
    return Accepted(name=deployment.name, version=draft.index, count=stopped)


def _find(draft: Draft, name: str, if_match: int | None) -> Deployment | Rejection:
    deployment = draft.deployment(name)
    if deployment is None:
        return Rejection(refusal=Refusal.NOT_FOUND, detail=f"there is no deployment {name}")
    if if_match is not None and if_match != deployment.spec_version:
        return Rejection(
            refusal=Refusal.PRECONDITION_FAILED, detail=f"deployment {name} is at version {deployment.spec_version} by now, not {if_match}"
        )
    return deployment
