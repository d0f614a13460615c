"""Holds the pack to the floors of docs/architecture.md: no arrow runs up, and no circle is left."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"browser", "nodes", "patches", "engine", "models", "methods", "training", "headless", "tools", "benchmarks"}
TORCH = {"torch", "numpy", "cv2", "pywt"}

# room -> rooms of the pack, packages from outside
ALLOWED = {
    "__init__.py": ({"browser"}, {"comfy_api", "typing_extensions"}),
    "__main__.py": ({"headless", "training"}, {"comfy", "torch"}),
    "browser": ({"nodes", "patches", "engine", "models", "methods"}, TORCH | {"comfy", "comfy_api", "server", "aiohttp"}),
    "nodes": ({"patches", "engine", "models", "methods"}, TORCH | {"comfy", "comfy_api", "comfy_extras", "folder_paths", "node_helpers"}),
    "patches": ({"engine", "models", "methods"}, TORCH | {"comfy", "latent_preview", "tqdm"}),
    "training": ({"models", "methods"}, TORCH | {"comfy", "folder_paths", "safetensors", "tqdm", "PIL"}),
    "engine": ({"methods"}, TORCH | {"comfy", "comfy_execution", "comfy_extras"}),
    "models": ({"methods"}, TORCH | {"comfy", "comfy_extras", "einops", "safetensors", "spandrel", "transformers", "PIL"}),
    "methods": (set(), TORCH),
    "headless": (set(), {"aiohttp", "PIL"}),
    "tools": ({"headless"}, None),
}
FLOORS = [
    {"methods", "headless"},
    {"engine", "models", "tools"},
    {"training"},
    {"patches"},
    {"nodes"},
    {"browser"},
    {"__init__.py", "__main__.py"},
]


def everywhere(path):
    """The statements of a file."""
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def at_import(path):
    """The statements of a file that run when it is imported: none inside a function."""
    waiting = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))]


def imports(path, statements=everywhere):
    """(line, module of the pack or None, package from outside or None) of what the `statements` of a file import."""
    package = path.parent.relative_to(ROOT).parts
    for node in statements(path):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" if node.module.split(".")[0] == "loupe" else node.module for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ("loupe", *package[: len(package) - node.level + 1], *([node.module] if node.module else []))
            names = [".".join((*base, alias.name)) for alias in node.names]
        else:
            continue
        for name in dict.fromkeys(names):
            first, *rest = name.split(".")
            yield node.lineno, *((_module(rest), None) if first == "loupe" and rest else (None, first))


def _module(parts):
    """The longest part of a dotted name that is a file or a folder of the pack."""
    while len(parts) > 1 and not (ROOT.joinpath(*parts).is_dir() or ROOT.joinpath(*parts).with_suffix(".py").is_file()):
        parts = parts[:-1]
    return ".".join(parts)


def files_of(room):
    return [ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_only_what_they_may(room):
    rooms, packages = ALLOWED[room]
    wrong = []
    for path in filter(Path.exists, files_of(room)):
        for line, module, package in imports(path):
            target = module and module.split(".")[0]
            if target in ROOMS and target != room and target not in rooms:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports the room {target}")
            if package in ROOMS:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {package} as a top-level package")
            elif package and packages is not None and package not in packages and package not in sys.stdlib_module_names:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {package}")
    assert not wrong, "\n".join(wrong)


def test_pywavelets_waits_until_a_wavelet_is_used():
    paths = [path for room in ALLOWED for path in files_of(room) if path.exists()]
    assert not [path for path in paths if "pywt" in [package for *_, package in imports(path, at_import)]]


def floor_of(room):
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_every_file_is_in_a_room_of_the_table():
    assert set(ALLOWED) == set().union(*FLOORS)
    elsewhere = {"dev.py", "tests", "benchmarks"}
    rooms = {path.relative_to(ROOT).parts[0] for path in ROOT.rglob("*.py") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)}
    assert rooms - elsewhere - {"runs", "output"} <= set(ALLOWED)


def test_no_arrow_runs_up():
    up = [f"{room} may import {other}" for room, (rooms, _) in ALLOWED.items() for other in rooms if floor_of(other) >= floor_of(room)]
    assert not up, "\n".join(up)


def graph():
    """{module: modules of the pack that it imports when it is imported}."""
    found = {}
    for room in ALLOWED:
        for path in filter(Path.exists, files_of(room)):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
            found[name] = {module for _, module, _ in imports(path, at_import) if module}
    return found


def circle(arrows):
    """Modules that import each other in a circle, the first one again at the end; none: an empty list."""
    done = set()

    def follow(module, trail):
        if module in trail:
            return [*trail[trail.index(module):], module]
        if module in done:
            return []
        found = next((found for other in sorted(arrows.get(module, ())) if (found := follow(other, [*trail, module]))), [])
        done.add(module)
        return found

    return next((found for module in sorted(arrows) if (found := follow(module, []))), [])


def test_no_modules_import_each_other_in_a_circle():
    assert not circle(graph()), " -> ".join(circle(graph()))


def test_circles_are_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}, "d": set()}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_imports_inside_functions_make_no_circle(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "engine").mkdir()
    file = tmp_path / "engine" / "a.py"
    file.write_text("from . import b\ntry:\n    from ..methods import c\nexcept ImportError:\n    pass\ndef f():\n    from ..nodes import d\n", encoding="utf-8")
    assert {module for _, module, _ in imports(file, at_import)} == {"engine", "methods"}
    assert {module for _, module, _ in imports(file)} == {"engine", "methods", "nodes"}


def test_the_check_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    folder = tmp_path / "models" / "lsr"
    folder.mkdir(parents=True)
    (folder / "file.py").touch()
    file = folder / "network.py"
    file.write_text(
        "import comfy.utils\nfrom torch import nn\nfrom ...engine.latents import scaled\nfrom ... import nodes\n"
        "from .file import load\nfrom . import file\nfrom loupe import engine\nimport loupe.methods.regions\n",
        encoding="utf-8",
    )
    assert list(imports(file)) == [
        (1, None, "comfy"),
        (2, None, "torch"),
        (3, "engine", None),
        (4, "nodes", None),
        (5, "models.lsr.file", None),
        (6, "models.lsr.file", None),
        (7, "engine", None),
        (8, "methods", None),
    ]


def calls():
    """(place, call) of every function call of the repository's Python files."""
    for path in sorted(ROOT.rglob("*.py")):
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts):
            yield from ((f"{path.relative_to(ROOT)}:{node.lineno}", node) for node in everywhere(path) if isinstance(node, ast.Call))


def reads_text(call):
    """Whether it opens a file as text."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr in ("read_text", "write_text")
    modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    return getattr(call.func, "id", "") == "open" and not any("b" in ast.literal_eval(mode) for mode in modes)


def test_text_files_name_their_encoding():
    wrong = [place for place, call in calls() if reads_text(call) and "encoding" not in [keyword.arg for keyword in call.keywords]]
    assert not wrong, "\n".join(wrong)


def test_logs_bear_the_packs_name():
    levels = {f"logging.{level}" for level in ("debug", "info", "warning", "error", "exception", "critical")}
    wrong = [place for place, call in calls() if ast.unparse(call.func) in levels]
    assert not wrong, "\n".join(wrong)
