"""Make the cards of the stages that store targets, and that probe the networks of a pair on them."""

from collections.abc import Mapping

from kdcore import catalog
from kdcore.matrix import data_section, protocols
from kdcore.matrix.code import Card, Code
from kdcore.matrix.params import Params
from kdcore.matrix.train_card import threads_card
from kdcore.system.errors import UserError

REMEDY = (
    "write 'transfer: []', or name data sets on which linear probes measure the networks, such as 'transfer: [stl10]' "
    "(docs/transfer.md)"
)


def check_key(params: Params, file: str) -> None:
    """Refuse a params file without `transfer`, which dvc.yaml needs; raises a UserError that says what to write."""
    if "transfer" not in params.model_fields_set:
        raise UserError(f"{file}: transfer: is missing; {REMEDY}")


def target_card(name: str, params: Params, code: Code) -> Card:
    """Make the card of the stage that stores a target: its section, and the name of its folder.

    Raises:
        UserError: there is no such folder or archive on this machine.
    """
    section = params.target(name).data.model_dump()
    data_section.check_there(section, "params.yaml", key=f"targets.{name}.source")
    return {**section, "code": {"data": code.of(f"kdcore.data.sources.{data_section.module(section['name'])}")}}


def cards(params: Params, evaluated: dict[str, Card], code: Code) -> dict[str, Card]:
    """Make all cards of targets and probes.

    Args:
        params: the matrix.
        evaluated: pair -> the card of stage evaluate, which lists the pair's cells.
        code: the fingerprints of the code.

    Returns:
        Path inside `kdcore.matrix.card_files.CARDS`, without ".yaml" -> card; nothing where `transfer` is empty.
    """
    found = {f"target/{name}": target_card(name, params, code) for name in params.transfer}
    for name in params.transfer:
        found |= {
            f"transfer/{pair}-{name}": {
                **{key: card[key] for key in ("pair", "teacher", "networks", "validation", "cells") if key in card},
                **probes(name, params),
                "data": params.data.name,
                "slow": _slow(pair, params, code),
                **threads_card(params.train),
                "code": {"transfer": code.of("kdcore.results.transfer")},
            }
            for pair, card in evaluated.items()
        }
    return found


def probes(name: str, params: Params) -> Card:
    """Return what a target is and how networks are probed on it, as a part of a card."""
    target = params.target(name)
    mean, std = target.data.mean, target.data.std
    given = None if mean is None or std is None else (mean, std)
    size = {} if target.image_size is None else {"image_size": target.image_size}
    return {
        "target": name,
        **size,
        "protocols": {one: protocols.card(one, target.data.name, given=given) for one in target.protocols},
    }


def tables_card(params: Params) -> Card:
    """Return the targets as a part of the card of stage tables; nothing where there are none."""
    if not params.transfer:
        return {}
    data = {name: params.target(name).data for name in params.transfer}
    return {
        "transfer": {
            name: {**probes(name, params), "dataset": one.name, "subset": getattr(one, "subset", False)}
            for name, one in data.items()
        }
    }


def _slow(pair: str, params: Params, code: Code) -> list[str]:
    """Name the networks of a pair to which protocol dcd gives another learning rate: teacher, student."""
    teacher, student = pair.split("-")
    by_role = {"teacher": params.network_of(teacher), "student": student}
    return [role for role, network in by_role.items() if _family(network, code.described) in protocols.SLOW]


def _family(network: str, described: Mapping[str, Card]) -> str:
    """Return the last part of the name of what makes a network: "mobilenetv2"."""
    one = described.get(network, {})
    made_by = one["family"] if "family" in one else catalog.networks()[one.get("zoo", network)].module
    return str(made_by).rpartition(".")[2]
