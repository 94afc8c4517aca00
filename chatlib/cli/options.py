"""Options from the settings of a stage: which there are, and which of them were given.

Each field is an option of its name; a field of a nested setting is `--lora.lora-dim`. What was
not given is absent, so that it replaces nothing of a recipe or of a file.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypedDict, get_args, get_origin

import tyro
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from chatlib.settings import stages
from chatlib.settings.stages import StageConfig, Strict

# What a description does not show: how a list or a nested setting is written.
EXAMPLES = {
    "sources": "words: --sources shop more.jsonl; with format or weight as JSON: "
    """'{"name": "more.jsonl", "weight": 2}'""",
    "split": "three words: --split 2 4 4",
    "betas": "two words: --betas 0.9 0.95",
    "lora_module_name": "words: --{}.lora-module-name q_proj v_proj",
    "lora": "--lora takes the defaults, --lora.lora-dim 8 one of its settings",
    "actor_lora": "--actor-lora takes the defaults, --actor-lora.lora-dim 8 one of its settings",
    "critic_lora": "--critic-lora takes the defaults, --critic-lora.lora-dim 8 one of its settings",
    "reward_model": "--reward-model run:reward-1234abcd",
}
MODEL = "--model run:sft-1234abcd, a folder or hub:NAME"
SCRATCH = f"{MODEL}; or --model.hidden-size 64 and its like, from scratch"


def settings_type(model: type[StageConfig]) -> Any:
    """The options of a stage as a type that tyro reads; values stay text until pydantic's turn."""
    options: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name == "stage":
            continue
        options[name] = option(name, field)
        for inner, of in nested(field).items():
            options[f"{name}.{inner}"] = option(inner, of, inside=name)
    return TypedDict("settings", options, total=False)  # type: ignore[operator]


def nested(field: FieldInfo) -> dict[str, FieldInfo]:
    """The fields of the nested setting that a field may hold; none for lists of them."""
    kinds = [field.annotation, *get_args(field.annotation)]
    if get_origin(field.annotation) is list:
        return {}
    found = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return found[0].model_fields if found else {}


def option(name: str, field: FieldInfo, inside: str = "") -> Any:
    """The type of one option with its help: description, example, default."""
    example = EXAMPLES.get(name, "").replace("{}", inside)
    if name == "model":
        example = SCRATCH if nested(field) else MODEL
    text = "; ".join(filter(None, [field.description, example]))
    kind = words(field)
    metavar = {str: "VALUE", list[str]: "VALUE..."}.get(kind)
    hint = f"({shown_default(field)})"
    return Annotated[kind, tyro.conf.arg(help=text, metavar=metavar, help_behavior_hint=hint)]


def words(field: FieldInfo) -> Any:
    """How an option is typed in: a flag, a choice, several words, or one."""
    annotation = field.annotation
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    if kinds == [bool] or "Lora" in [getattr(kind, "__name__", "") for kind in kinds]:
        return bool
    if allowed := stages.choices(annotation):
        none = ["None"] if type(None) in get_args(annotation) else []
        return Literal[(*map(str, allowed), *none)]
    if get_origin(annotation) is tuple:
        return tuple[tuple(str for _ in get_args(annotation))]  # type: ignore[misc]
    return list[str] if get_origin(annotation) is list else str


def shown_default(field: FieldInfo) -> str:
    """The default as one would type it."""
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, Strict):
        return "default: one from scratch"
    items = default if isinstance(default, list | tuple) else [default]
    return f"default: {' '.join(str(getattr(item, 'name', item)) for item in items)}"


def value(text: Any) -> Any:
    """JSON where the text is JSON, else the text; the configuration checks the rest."""
    if isinstance(text, list | tuple):
        return [value(item) for item in text]
    if not isinstance(text, str):
        return text
    try:
        return None if text == "None" else json.loads(text)
    except ValueError:
        return text


def overlay(begun: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The settings begun with, replaced by the options that were given; a nested one in part.

    Raises `ValueError` where a setting is given both as a whole and in part.
    """
    settings = dict(begun)
    plain = {name: value(text) for name, text in given.items() if "." not in name}
    for name, whole in plain.items():
        nothing_new = name.endswith("lora") and isinstance(whole, bool)
        settings[name] = ((settings.get(name) or {}) if whole else None) if nothing_new else whole
    for path in (path for path in given if "." in path):
        name, inner = path.split(".")
        if name in plain and plain[name] is not True:
            flag = name.replace("_", "-")
            raise ValueError(
                f"--{flag} and --{flag}.{inner.replace('_', '-')} were given; give one of them"
            )
        part = settings.get(name)
        part = part if isinstance(part, dict) else {}
        settings[name] = {**part, inner: value(given[path])}
    return settings
