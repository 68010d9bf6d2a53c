"""The arguments a constructor was called with, kept in `hparams` and in checkpoints."""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, NamedTuple, Self

from torchloops.errors import CheckpointError, ConfigurationError, did_you_mean
from torchloops.files import given_path
from torchloops.named import resolved

__all__ = ["AttributeDict", "Hyperparameters", "HyperparametersMixin", "collect_hyperparameters"]


class HyperparametersMixin:
    """What a module and a data module have in common: their constructor's arguments, kept and saved.

    Attributes:
        CHECKPOINT_HYPER_PARAMS_KEY: where a checkpoint has the values.
        CHECKPOINT_HYPER_PARAMS_NAME: where it has the name of the argument that holds them all.
        CHECKPOINT_HYPER_PARAMS_BASES: where it has the names of those that are arguments of a base class alone.
    """

    CHECKPOINT_HYPER_PARAMS_KEY = "hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME = "hparams_name"
    CHECKPOINT_HYPER_PARAMS_BASES = "hparams_of_bases"
    _paths: ClassVar[tuple[str, ...]] = ()  # hyper-parameters that name files: one in a checkpoint opens none

    @property
    def hparams(self) -> Any:
        """The arguments kept by `save_hyperparameters`: a dict whose keys are attributes too.

        Change one where the object becomes what another argument would have made of it: checkpoints hold it as it is.
        """
        return self.__dict__.setdefault("_hparams", AttributeDict())

    @property
    def hparams_initial(self) -> Any:
        """`hparams` as they were when they were last saved; modules, tensors and the like are the same objects."""
        return AttributeDict(_copied(self.__dict__.get("_hparams_initial", {})))

    def save_hyperparameters(self, *args: Any, ignore: Any = (), frame: None = None, logger: bool = True) -> None:
        """Keep the constructor's arguments in ``self.hparams`` and in checkpoints.

        Call it in ``__init__``, also in that of a base class: what several calls save is kept together.

        Args:
            args: names of arguments, only these; or one argument itself that holds them all, a dict or a namespace.
            ignore: a name or names to leave out, also of those that a base class has saved.
            frame: None; Lightning has it.
            logger: hand them to the loggers when a fit starts.
        """
        if frame is not None:
            raise ConfigurationError("save_hyperparameters(frame=...): leave it out, and call it inside __init__.")
        found = collect_hyperparameters(self, args, ignore)
        own, hparams = self.__dict__, self.hparams
        hparams.update(found.values)
        self.remove_ignored_hparams(found.ignored)
        own["_hparams_name"], own["_log_hyperparams"] = found.argument or "kwargs", logger
        own["_hparams_of_bases"] = sorted({*own.get("_hparams_of_bases", ()), *found.of_bases})
        own["_hparams_initial"] = AttributeDict(_copied(hparams))

    def remove_ignored_hparams(self, ignore_list: Iterable[str]) -> None:
        """Forget hyper-parameters by name."""
        for name in {*ignore_list} & self.hparams.keys():
            del self.hparams[name]

    @classmethod
    def _read_checkpoint(
        cls, path: str | Path, map_location: Any, hparams_file: str | Path | None, weights_only: bool | None
    ) -> dict[str, Any]:
        """The checkpoint that ``load_from_checkpoint`` was given, with the hyper-parameters of ``hparams_file``.

        Raises:
            CheckpointError: no such file, or no checkpoint.
            ConfigurationError: ``weights_only`` is False.
        """
        from torchloops.trainer.checkpoint_file import read_checkpoint

        if weights_only is False:
            raise ConfigurationError(
                "weights_only=False would run what a file says. Leave it out: what is no plain data is saved by name, "
                "and looked up where torch.serialization.add_safe_globals([...]) allows it."
            )
        checkpoint = read_checkpoint(path, map_location or "cpu")
        if hparams_file is None:
            return checkpoint
        return {**checkpoint, cls.CHECKPOINT_HYPER_PARAMS_KEY: _hparams_from_file(hparams_file)}

    @classmethod
    def _from_hyperparameters(cls, checkpoint: Mapping[str, Any], source: Any, given: dict[str, Any]) -> Self:
        """An object built with the arguments that a checkpoint holds, and with ``given``, which win.

        Raises:
            CheckpointError: arguments are missing, or are no plain data and cannot be made again.
        """
        try:
            return cls(**cls._arguments(checkpoint, given))
        except TypeError as error:
            raise CheckpointError(
                f"{cls.__name__} cannot be built from {source}: {error}. Give the missing arguments to "
                "load_from_checkpoint, or call self.save_hyperparameters() in __init__ before training."
            ) from error

    @classmethod
    def _arguments(cls, checkpoint: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """What ``__init__`` is called with: what a checkpoint holds, and ``given``, which wins."""
        saved = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {})
        whole = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_NAME, "kwargs")
        if whole in given:
            return given
        left_out = {*cls._paths, *given} | {*checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_BASES, ())}
        found = {name: resolved(saved[name], name, cls.__name__) for name in saved if name not in left_out}
        is_whole = whole != "kwargs" and whole in inspect.signature(cls.__init__).parameters
        return ({whole: AttributeDict(found)} if is_whole else found) | given


class AttributeDict(dict[str, Any]):
    """A dict whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"No hyper-parameter {name!r}; there are {sorted(self)}.") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def _hparams_from_file(path: str | Path) -> dict[str, Any]:
    """Hyper-parameters of a YAML file, as a logger writes them.

    Raises:
        CheckpointError: no such file, or no mapping in it.
    """
    import yaml

    file = given_path(path, "hparams_file")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"hparams_file={str(path)!r} cannot be read: {error}.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"hparams_file={str(path)!r} holds names and values as YAML, got {type(found).__name__}.")
    return found


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


class Hyperparameters(NamedTuple):
    """What `collect_hyperparameters` found.

    Attributes:
        values: by name.
        argument: the argument that holds them all; None: they are arguments themselves.
        of_bases: names that are arguments of a base class alone.
        ignored: names to leave out.
    """

    values: dict[str, Any]
    argument: str | None
    of_bases: list[str]
    ignored: set[str]


def collect_hyperparameters(owner: Any, args: tuple[Any, ...], ignore: Any) -> Hyperparameters:
    """Arguments of the constructors of ``owner`` that are running, its own and those of base classes.

    Args:
        owner: the object that is made.
        args: names of arguments, only these; or one argument itself, a dict or a namespace; none: all.
        ignore: a name or names to leave out.

    Raises:
        ConfigurationError: called outside of ``__init__``, or a name is no argument.
    """
    constructors = _running_constructors(owner)
    own = constructors[-1]
    arguments = {name: value for one in constructors for name, value in one.items()}
    ignored = {ignore} if isinstance(ignore, str) else set(ignore or ())
    objects = [value for value in args if not isinstance(value, str)]
    if objects:
        whole = _as_dict(owner, args)
        argument = next((name for name, value in arguments.items() if value is objects[0]), None)
        return Hyperparameters({name: whole[name] for name in whole if name not in ignored}, argument, [], ignored)
    for name in (*args, *ignored):
        if name not in arguments:
            raise ConfigurationError(
                f"save_hyperparameters: {type(owner).__name__}.__init__ has no argument {name!r}; it has "
                f"{sorted(arguments)}." + did_you_mean(name, arguments)
            )
    values = {name: arguments[name] for name in (args or arguments) if name not in ignored}
    return Hyperparameters(values, None, [name for name in values if name not in own], ignored)


def _as_dict(owner: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    given = vars(args[0]) if isinstance(args[0], Namespace) else args[0]
    if len(args) > 1 or not isinstance(given, Mapping):
        raise ConfigurationError(
            f"save_hyperparameters of {type(owner).__name__} takes names of arguments, or one dict or namespace with "
            f"all of them, got {', '.join(type(one).__name__ for one in args)}."
        )
    return dict(given)


def _running_constructors(owner: Any) -> list[dict[str, Any]]:
    """The arguments of each ``__init__`` of ``owner`` that is running, the innermost first."""
    frame, found = inspect.currentframe(), []
    while frame is not None:
        if frame.f_code.co_name == "__init__" and frame.f_locals.get("self") is owner:
            found.append(_arguments_of(frame))
        frame = frame.f_back
    if not found:
        raise ConfigurationError(f"Call save_hyperparameters() inside {type(owner).__name__}.__init__.")
    return found


def _arguments_of(frame: FrameType) -> dict[str, Any]:
    info, code = inspect.getargvalues(frame), frame.f_code
    arguments = {name: info.locals[name] for name in info.args if name != "self"}
    arguments.update(info.locals[info.keywords] if info.keywords else {})
    for name in code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]:
        arguments[name] = info.locals[name]
    return arguments
