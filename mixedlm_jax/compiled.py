"""Programs that are compiled once for each shape of their arguments, and kept between processes.

`jax.jit` compiles anew in every process, and JAX's own cache on disk saves the compiling but not
the tracing, which takes as long; it also stays switched on for the caller's programs once it was
used. A `Program` keeps the executable itself (JAX's ahead-of-time compilation), under a name that
covers all it depends on: the package's source, the versions, the machine, JAX's configuration, the
static arguments, and the arguments' shapes. Nothing of the caller's configuration is touched.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import platform
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache, update_wrapper
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.serialize_executable import deserialize_and_load, serialize

from mixedlm_jax.store import Store, chosen_folder, store_in

# An executable maps 90 to 200 pieces of memory, of which Linux grants a process 65,530; beyond them
# XLA crashes.
_MAX_IN_MEMORY = 128
_executables: OrderedDict[Any, Callable] = OrderedDict()
_lock = threading.RLock()
# What may change from call to call, and with it what the same shapes compile to.
_DECISIVE = ("jax_enable_x64", "jax_default_device", "jax_default_matmul_precision")


class Program:
    """A pure function of pytrees, compiled for each shape of its arguments.

    Arguments are given by position. Those named in `static` are part of the program and must be
    hashable. Under a transformation of JAX's, or for arrays that are bound to a device, it is
    `jax.jit` of the function.
    """

    def __init__(self, function: Callable, static: tuple[str, ...] = ()) -> None:
        update_wrapper(self, function)
        names = list(inspect.signature(function).parameters)
        self._static = tuple(names.index(name) for name in static)
        self._jit = jax.jit(function, static_argnums=self._static)
        self._name = f"{function.__module__}.{function.__qualname__}"

    def __call__(self, *args: Any) -> Any:
        static = tuple(args[i] for i in self._static)
        dynamic = tuple(arg for i, arg in enumerate(args) if i not in self._static)
        leaves, tree = jax.tree.flatten(dynamic)
        if _setting("jax_disable_jit") or any(_bound(leaf) for leaf in leaves):
            return self._jit(*args)
        shapes = tuple(_shape(leaf) for leaf in leaves)
        key = (self, static, tree, shapes, *map(_setting, _DECISIVE))
        with _lock:  # threads that want one program compile it once
            executable = _executables.get(key)
            if executable is None:
                executable = self._obtain(args, dynamic, (static, tree, shapes))
                _executables[key] = executable
                while len(_executables) > _MAX_IN_MEMORY:
                    forgotten, _ = _executables.popitem(last=False)
                    forgotten[0]._jit.clear_cache()
            else:
                _executables.move_to_end(key)
        return executable(*dynamic)

    def _obtain(self, args: tuple, dynamic: tuple, signature: tuple) -> Callable:
        """The executable from disk, or else compiled and put there."""
        store = _open_store()
        name = None if store is None else _name_of(self._name, signature)
        if store is None or name is None:
            return self._jit.lower(*args).compile()
        content = store.read(name)
        if content is not None:
            executable = _load(content, jax.tree.structure((dynamic, {})))
            if executable is not None:
                return executable
            store.discard(name)
        lowered = self._jit.lower(*args)
        executable = lowered.compile()
        store.write(name, _dump(executable, lowered))
        return executable


def program(*static: str) -> Callable[[Callable], Program]:
    """Make a function a `Program`; `static` names the arguments that are part of it."""
    return lambda function: Program(function, static)


def forget() -> None:
    """Forget every compiled program of this process; those on disk stay."""
    for key in _executables:
        key[0]._jit.clear_cache()
    _executables.clear()


def _setting(name: str) -> Any:
    """A value of JAX's configuration, as it holds in this thread."""
    return getattr(jax.config, name)


def _bound(leaf: Any) -> bool:
    """Whether an argument is traced, or bound to a device."""
    if isinstance(leaf, np.ndarray):
        return False
    return isinstance(leaf, jax.core.Tracer) or (isinstance(leaf, jax.Array) and leaf.committed)


def _shape(leaf: Any) -> tuple:
    """What a program's compilation depends on of an argument."""
    if isinstance(leaf, np.ndarray):
        return leaf.shape, leaf.dtype.str
    if isinstance(leaf, jax.Array):
        return leaf.shape, leaf.dtype.str, leaf.weak_type
    return (type(leaf).__name__,)  # a number


# On disk


def _open_store() -> Store | None:
    """The store in use; none where the caller has a cache of JAX's own, or several processes.

    An executable that JAX has read from its cache cannot be written once more: XLA leaves out part
    of it. One of a process of `jax.distributed` is bound to the devices of that process.
    """
    if _setting("jax_compilation_cache_dir") or jax.process_count() > 1:
        return None
    folder = chosen_folder()
    return None if folder is None else store_in(folder)


class _Unknown(Exception):
    """A static argument whose code is not this package's."""


def _name_of(name: str, signature: tuple) -> str | None:
    """A name for all that an executable depends on, None where that cannot be known.

    It cannot where a static argument holds code from elsewhere: a user's family or link.
    """
    static, tree, shapes = signature
    try:
        text = "\n".join([name, _describe(static), _describe_tree(tree), repr(shapes)])
    except _Unknown:
        return None
    return hashlib.sha256(f"{_surroundings()}\n{_settings()}\n{text}".encode()).hexdigest()


def _describe(value: Any) -> str:
    """A static argument in words that are the same in every process."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_describe, value))})"
    kind = value if isinstance(value, type) else type(value)
    package = __name__.partition(".")[0]
    if kind.__module__.partition(".")[0] != package:
        raise _Unknown
    parts = []
    if is_dataclass(value) and not isinstance(value, type):
        parts = [f"{field.name}={_describe(getattr(value, field.name))}" for field in fields(value)]
    elif kind is not value and getattr(value, "__dict__", None):
        raise _Unknown
    return f"{kind.__module__}.{kind.__qualname__}({', '.join(parts)})"


def _describe_tree(tree: Any) -> str:
    """The structure of a pytree, with the static parts of its nodes."""
    node = tree.node_data()
    if node is None:
        return "None" if tree.num_leaves == 0 else "*"
    kind, data = node
    children = ", ".join(map(_describe_tree, tree.children()))
    return f"{kind.__module__}.{kind.__qualname__}[{_describe(data)}]({children})"


@cache
def source_version() -> str:
    """A digest of the package's source."""
    source = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        source.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return source.hexdigest()


@cache
def _surroundings() -> str:
    """What stays the same within a process: source, versions and machine."""
    device = jax.devices()[0]
    parts = [
        source_version(),
        jax.__version__,
        version("jaxlib"),
        np.__version__,
        sys.version,
        platform.platform(),
        platform.machine(),
        _processor(),
        str(os.cpu_count()),
        device.platform,
        device.device_kind,
        str(device.client.platform_version),
        os.environ.get("XLA_FLAGS", ""),
    ]
    return "\n".join(parts)


def _processor() -> str:
    """The instructions the processor knows: an executable uses all of them."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _settings() -> str:
    """JAX's configuration, which may change within a process, and in one of its threads alone."""
    return repr([sorted(jax.config.values.items()), [*map(_setting, _DECISIVE)]])


def _dump(executable: Any, lowered: Any) -> bytes:
    content, _, out_tree = serialize(executable)
    return pickle.dumps((content, out_tree, "lapack" in lowered.as_text()))


def _load(content: bytes, in_tree: Any) -> Callable | None:
    """The executable of an entry, None where JAX cannot make one of it."""
    try:
        stored, out_tree, calls_lapack = pickle.loads(content)
        if calls_lapack:
            _find_lapack()
        # unless told so, it would ask for arrays that are divided among all devices there are
        device = _device()
        return deserialize_and_load(stored, in_tree, out_tree, device.client, [device])
    except (jax.errors.JaxRuntimeError, pickle.UnpicklingError, ValueError, TypeError, EOFError):
        return None


def _device() -> jax.Device:
    """The device that a program runs on whose arguments are bound to none."""
    chosen = _setting("jax_default_device")
    if isinstance(chosen, jax.Device):
        return chosen
    return jax.local_devices(backend=chosen)[0]  # None, or the name of a platform


@cache
def _find_lapack() -> None:
    """Have JAX look up LAPACK's routines, as it does when a program that calls them is traced."""
    jax.jit(jax.lax.linalg.cholesky).lower(jax.ShapeDtypeStruct((2, 2), np.float32))
