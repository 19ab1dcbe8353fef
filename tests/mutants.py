"""Makes small wrong changes to the code, one at a time, and says which of them no test sees.

    python tests/mutants.py --count 150 --seed 0

Each change is made in a copy of the tree, and only the test files that cover the changed module are run there, nearest first,
until one fails. How near a test file is follows from its imports: first those that import the module (or a name of it, through
a package), then those that reach it through one module in between. A process that has imported the libraries is forked for
every change, and all share one cache of compiled programs.

No part of the suite: pytest does not collect it. What survives is printed as diffs; see docs/reliability.md.
"""

import argparse
import ast
import collections
import copy
import dataclasses
import difflib
import importlib
import itertools
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
MUTATED = ("metrics", "methods", "training", "influence", "data")
COPIED = ("unlearn_jax", "tests", "experiments", "benchmarks")
LIBRARIES = (
    *(
        "jax",
        "jax.numpy",
        "jax.flatten_util",
        "jax.extend.core",
        "flax.linen",
        "optax",
        "orbax.checkpoint",
        "jaxtyping",
        "beartype",
    ),
    *("numpy", "scipy.stats", "scipy.optimize", "sklearn.svm", "sklearn.ensemble", "sklearn.linear_model", "sklearn.neighbors"),
    *("matplotlib.figure", "hypothesis.extra.numpy", "pytest", "tyro", "rich.console"),
)
MEMORY = 12 * 2**30  # bytes that a changed program may ask for

ORDERS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
EQUALITIES = {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}
SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
SETS = {ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
NAMES = {
    a: b
    for one, other in (
        *(("forget", "retain"), ("forget_count", "retain_count"), ("held_out", "train"), ("kept", "forget")),
        *(("minimum", "maximum"), ("argmin", "argmax"), ("min", "max"), ("any", "all"), ("mean", "sum"), ("zeros", "ones")),
        *(("params", "statistics"), ("images", "labels"), ("low", "high")),
    )
    for a, b in ((one, other), (other, one))
}
OTHER_SETS = {"forget": "retain", "retain": "forget", "kept": "retain", "held_out": "train", "test": "retain"}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A piece of a file, in bytes, and what is written in its place."""

    path: str
    kind: str
    start: int
    end: int
    text: str
    line: int
    function: str  # the outermost function or class around it

    def applied(self) -> str:
        """The whole file with the change."""
        source = (ROOT / self.path).read_bytes()
        return (source[: self.start] + self.text.encode() + source[self.end :]).decode()

    def diff(self) -> str:
        """What changes, as a diff without context."""
        before, after = (ROOT / self.path).read_text().splitlines(), self.applied().splitlines()
        lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[3:]
        return "\n".join([f"{self.path}:{self.line}  {self.function}  ({self.kind})", *lines])


# What is changed


def mutants_of(path: str) -> Iterator[Mutant]:
    """All changes of one file; a few do not parse."""
    source = (ROOT / path).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def visit(node: ast.AST, function: str, keys: tuple[str, ...]) -> Iterator[Mutant]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            function = function or node.name
            found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and re.search(r"(^|_)keys?$", n.id)}
            keys = tuple(sorted(found))
        for kind, text in changes(node, keys):
            begin, end = (starts[row - 1] + column for row, column in _span(node))
            if source[begin:end].decode() != text:
                yield Mutant(path, kind, begin, end, text, node.lineno, function)
        for child in ast.iter_child_nodes(node):
            if not _said_only(node, child):
                yield from visit(child, function, keys)

    yield from visit(ast.parse(source), "", ())


def parses(mutant: Mutant) -> bool:
    """Whether Python takes the changed file."""
    with warnings.catch_warnings(action="ignore"):
        try:
            compile(mutant.applied(), mutant.path, "exec")
        except SyntaxError:
            return False
    return True


def changes(node: ast.AST, keys: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every change of one node: its kind and the new text."""

    def with_(kind: str, **fields: object) -> tuple[str, str]:
        other = copy.copy(node)
        for name, value in fields.items():
            setattr(other, name, value)
        return kind, ast.unparse(other)

    match node:
        case ast.Compare(ops=[op], left=left, comparators=[right]):
            if type(op) in ORDERS:
                yield with_("boundary", ops=[ORDERS[type(op)]()])
                yield with_("side", left=right, comparators=[left])
            elif type(op) in EQUALITIES:
                yield with_("equality", ops=[EQUALITIES[type(op)]()])
        case ast.BoolOp(op=op):
            yield with_("and, or", op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.BinOp(op=op, left=left, right=right):
            if type(op) in SIGNS:
                yield with_("operator", op=SIGNS[type(op)]())
            if type(op) in SETS:
                yield with_("and, or", op=SETS[type(op)]())
            if isinstance(op, ast.Sub | ast.Div):
                yield with_("operands", left=right, right=left)
            if isinstance(op, ast.Mult | ast.Div):
                yield "factor", _within(left)
            if isinstance(op, ast.Mult):
                yield "factor", _within(right)
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand) if not isinstance(operand, ast.Constant):
            yield "sign", _within(operand)
        case ast.IfExp(body=body, orelse=orelse):
            yield with_("branches", body=orelse, orelse=body)
        case ast.keyword(arg=arg, value=ast.Constant(value=bool() as value)) if arg != "strict":
            yield "train" if arg == "train" else "switch", f"{arg}={not value}"
        case ast.keyword(arg="axis", value=value) if isinstance(value, ast.Constant | ast.UnaryOp):
            yield "axis", f"axis={_other_axis(value)}"
        case ast.Call(func=ast.Attribute(attr="mean" | "sum" | "max" | "min" | "std" | "argmax" | "argmin"), args=[value]) if (
            _number(value) is not None
        ):
            yield "axis", f"{ast.unparse(node.func)}({_other_axis(value)})"
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            yield "number", repr(value + 1 if isinstance(value, int) else value * 2 if value else 1.0)
        case ast.Constant(value=str() as value) if value in OTHER_SETS:
            yield "name", repr(OTHER_SETS[value]).replace("'", '"')
        case ast.Attribute(value=value, attr=attr) if attr in NAMES:
            yield "name", f"{_within(value)}.{NAMES[attr]}"
        case ast.Name(id=name, ctx=ast.Load()) if name in keys:
            yield from (("key", other) for other in keys if other != name)
        case ast.If(test=test, body=[ast.Raise()], orelse=[]):
            yield (
                "guard",
                ast.unparse(node).replace(f"if {ast.unparse(test)}:", "if False:", 1).replace("\n", "\n" + " " * node.col_offset),
            )
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield "statement", "pass"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "generator" and len(node.args) > 1:
        yield with_("draw", args=node.args[:-1])
    if isinstance(node, ast.Call) and len(node.args) > 1:
        first, second, *rest = node.args
        if not any(isinstance(each, ast.Starred | ast.Constant | ast.Lambda) for each in (first, second)):
            yield with_("arguments", args=[second, first, *rest])


def _span(node: ast.AST) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _within(node: ast.AST) -> str:
    """As part of an expression."""
    text = ast.unparse(node)
    loose = isinstance(node, ast.BinOp | ast.BoolOp | ast.Compare | ast.IfExp | ast.UnaryOp | ast.Lambda)
    return f"({text})" if loose else text


def _number(node: ast.AST) -> int | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _other_axis(node: ast.AST) -> int | str:
    number = _number(node)
    return ast.unparse(node) if number is None else {0: 1, 1: 0, -1: 0}.get(number, number - 1)


def _said_only(node: ast.AST, child: ast.AST) -> bool:
    """Messages, annotations, decorators and types: not what is computed."""
    if isinstance(child, ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and child in [*node.decorator_list, getattr(node, "returns", None)]:
        return True
    return child is getattr(node, "annotation", None)


# Who sees it


def modules() -> dict[str, pathlib.Path]:
    """Files of the project by the name that they are imported by; those of the tests are `test_...`."""
    found = {}
    for path in [*(path for folder in COPIED for path in sorted((ROOT / folder).rglob("*.py"))), ROOT / "benchmark.py"]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[1:] if parts[0] == "tests" else parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(known: dict[str, pathlib.Path]) -> dict[str, set[str]]:
    """By module the modules that it imports; a name taken from a package is taken from where the package has it."""
    taken: dict[str, dict[str, str]] = {}  # by module, where each of its imported names comes from
    for module, path in known.items():
        own = taken[module] = {}
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module in known:
                own |= {node.module: node.module} if "." in node.module else {}
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    own[alias.asname or alias.name] = inner if inner in known else f"{node.module}:{alias.name}"
            elif isinstance(node, ast.Import):
                own |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name in known}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):  # metrics.klom, of a package
                own.setdefault(f"{node.value.id}.{node.attr}", f"?{node.value.id}:{node.attr}")

    def origin(reference: str, own: dict[str, str]) -> str | None:
        if reference.startswith("?"):
            package, name = reference[1:].split(":")
            reference = f"{own.get(package)}:{name}"
        module, _, name = reference.partition(":")
        if not name:
            return module if module in known else None
        deeper = taken.get(module, {}).get(name)
        return (
            origin(deeper, taken[module])
            if deeper and known[module].name == "__init__.py"
            else module
            if module in known
            else None
        )

    return {module: {origin(each, own) for each in own.values()} - {None, module} for module, own in taken.items()}


def covering(mutant: Mutant, reached: dict[str, set[str]], known: dict[str, pathlib.Path]) -> list[str]:
    """Test files that reach the changed module: the nearest first, of those who name the function, of those who import least."""
    module = next(name for name, path in known.items() if path == ROOT / mutant.path)
    near = {name for name, targets in reached.items() if module in targets or "unlearn_jax" in targets}  # which walks through all
    further = {name for name, targets in reached.items() if targets & near}
    files = [name for name in known if name.startswith("test_")]
    word = mutant.function.lstrip("_")

    def order(name: str) -> tuple:
        named = word and re.search(rf"\b_?{re.escape(word)}\b", known[name].read_text())
        return name not in near, not named, len(reached[name])

    return [str(known[name].relative_to(ROOT)) for name in sorted(set(files) & (near | further), key=order)]


class Watcher:
    """Runs those tests of a file first that name the changed function, and of a method's laws only its own."""

    def __init__(self, mutant: Mutant | None, cache: str):
        self.mutant, self.cache = mutant, cache
        self.failed: list[str] = []

    def pytest_configure(self, config) -> None:
        """Programs that another process compiled are found again; pools and results are not shared."""
        import jax

        jax.config.update("jax_compilation_cache_dir", self.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

    def pytest_collection_modifyitems(self, config, items) -> None:
        """Sorts, and leaves out what other methods are asked."""
        import inspect

        if self.mutant is None:
            return
        methods = sys.modules.get("unlearn_jax.methods")
        known = methods.METHODS if methods else {}
        name, word = self.mutant.function, self.mutant.function.lstrip("_")
        order = list(dict.fromkeys(item.path for item in items))
        if name in known:
            words = [
                {str(v) for v in item.callspec.params.values()} & set(known) if hasattr(item, "callspec") else set()
                for item in items
            ]
            items[:] = [item for item, said in zip(items, words, strict=True) if not said or name in said]

        def distance(item) -> tuple:
            named = word and (word in item.name or word in inspect.getsource(item.function))
            return order.index(item.path), not named

        items.sort(key=distance)

    def pytest_collectreport(self, report) -> None:
        """A test file that cannot be imported sees it too."""
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_runtest_logreport(self, report) -> None:
        """Remembers the tests that saw it."""
        if report.failed:
            self.failed.append(report.nodeid)


def attempt(mutant: Mutant | None, files: list[str], tree: pathlib.Path, cache: str, said: pathlib.Path) -> int:
    """Forks a process that runs the tests in a copy of the tree; its verdict is written to `said`."""
    process = os.fork()
    if process:
        return process
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        output = os.open(said.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["XDG_CACHE_HOME"] = str(tree / "cache")
        import pytest

        watcher = Watcher(mutant, cache)
        options = [
            "-n",
            "0",
            *(["-x"] if mutant else []),
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
        ]
        code = pytest.main([*options, *files], plugins=[watcher])
        said.write_text(json.dumps([int(code), watcher.failed]))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def copied(folder: pathlib.Path) -> pathlib.Path:
    """A copy of the tree as it is; what tests only read is linked."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name in COPIED:
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file() and path.name != ".git":
            shutil.copy2(path, folder)
        elif path.name in ("docs", ".ci"):
            (folder / path.name).symlink_to(path)
    return folder


def write(tree: pathlib.Path, path: str, text: str) -> None:
    """Replaces a file of the copy, and forgets what Python made of the last one, which may be as long and as old."""
    (tree / path).write_text(text)
    for compiled in (tree / path).parent.glob(f"__pycache__/{pathlib.Path(path).stem}.*"):
        compiled.unlink()


# The campaign


def shuffled(found: list[Mutant], seed: int) -> list[Mutant]:
    """In an order whose beginning is even over the kinds of change, and over the files within a kind."""
    rng = random.Random(seed)
    kinds: dict[str, dict[str, list[Mutant]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for mutant in found:
        kinds[mutant.kind][mutant.path].append(mutant)
    lines = []
    for files in kinds.values():
        for own in files.values():
            rng.shuffle(own)
        queues = list(files.values())
        rng.shuffle(queues)
        lines.append([own[turn] for turn in range(max(map(len, queues))) for own in queues if turn < len(own)])
    rng.shuffle(lines)
    return [line[turn] for turn in range(max(map(len, lines), default=0)) for line in lines if turn < len(line)]


def campaign(chosen: list[Mutant], processes: int, limit: float, work: pathlib.Path, report: pathlib.Path | None) -> list[tuple]:
    """Tries all of them. Returns `(mutant, verdict, test)`; verdicts are seen, survived, out of time."""
    known = modules()
    reached = imports(known)
    trees = [copied(work / f"tree{number}") for number in range(processes)]
    cache, waiting, results = str(work.parent / "unlearn_jax_mutants_xla"), list(chosen), []
    running: dict[int, tuple] = {}
    try:
        while waiting or running:
            for number in range(processes):
                if number in running or not waiting:
                    continue
                mutant = waiting.pop(0)
                write(trees[number], mutant.path, mutant.applied())
                files, said = covering(mutant, reached, known), work / f"said{number}"
                said.unlink(missing_ok=True)
                running[number] = mutant, files, attempt(mutant, files, trees[number], cache, said), said, time.monotonic()
            for number, (mutant, files, process, said, began) in list(running.items()):
                late = time.monotonic() - began > limit
                if late:
                    os.killpg(process, signal.SIGKILL)
                ended, status = os.waitpid(process, 0 if late else os.WNOHANG)
                if not ended:
                    continue
                if not said.exists() and not os.WIFSIGNALED(status):
                    raise SystemExit(f"the tests did not run:\n{said.with_suffix('.log').read_text()}")
                code, failed = json.loads(said.read_text()) if said.exists() else (-1, [])
                verdict = "survived" if code in (0, 5) else "out of time" if late and code == -1 else "seen"
                test = failed[0] if failed else "" if verdict != "seen" else "a crash"
                results.append((mutant, verdict, test))
                seconds = time.monotonic() - began
                progress = f"{len(results)}/{len(chosen)} {verdict}, {seconds:.0f} s, {len(files)} files: {mutant.diff()}"
                print(f"{progress}\n   {test}", file=sys.stderr, flush=True)
                if report:
                    with report.open("a") as file:
                        file.write(json.dumps([mutant.diff(), verdict, test, round(seconds)]) + "\n")
                write(trees[number], mutant.path, (ROOT / mutant.path).read_text())
                del running[number]
            time.sleep(0.2)
    finally:
        for _, _, process, *_ in running.values():
            os.killpg(process, signal.SIGKILL)
    seeing = sorted({test for *_, test in results if test.startswith("tests/")})
    if seeing:  # a test that fails anyway sees nothing
        said.unlink(missing_ok=True)
        os.waitpid(attempt(None, seeing, trees[0], cache, said), 0)
        for test in json.loads(said.read_text())[1]:
            print(f"fails without any change: {test}")
    return results


def table(results: list[tuple]) -> str:
    """Counts by folder and by kind."""
    lines = ["| | tried | seen | survived | out of time |", "|---|--:|--:|--:|--:|"]
    for title, of in (("kind", lambda m: m.kind), ("folder", lambda m: pathlib.Path(m.path).parts[1]), ("all", lambda m: "all")):
        for name in sorted({of(mutant) for mutant, *_ in results}):
            verdicts = collections.Counter(verdict for mutant, verdict, _ in results if of(mutant) == name)
            counts = [sum(verdicts.values()), *(verdicts[v] for v in ("seen", "survived", "out of time"))]
            lines.append(f"| {'' if title == 'all' else title + ' '}{name} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def main() -> None:
    """Parses the command line and runs a campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=150, help="changes to try")
    parser.add_argument("--seed", type=int, default=0, help="draws them")
    parser.add_argument("--only", default="", help="a regular expression for `path:line`")
    parser.add_argument("--kind", default="", help="a regular expression for the kind")
    parser.add_argument("--processes", type=int, default=2, help="changes that are tried at a time")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one change")
    parser.add_argument("--report", type=pathlib.Path, help="a file that gets a line of JSON for each, as it is tried")
    parser.add_argument("--list", action="store_true", help="show the changes and run nothing")
    given = parser.parse_args()
    paths = [path for folder in MUTATED for path in sorted((ROOT / "unlearn_jax" / folder).glob("*.py"))]
    found = [mutant for path in paths for mutant in mutants_of(str(path.relative_to(ROOT)))]
    found = [m for m in found if re.search(given.only, f"{m.path}:{m.line}") and re.fullmatch(given.kind or ".*", m.kind)]
    chosen = list(itertools.islice(filter(parses, shuffled(found, given.seed)), given.count))
    print(f"{len(chosen)} of {len(found)} changes", file=sys.stderr)
    if given.list:
        print("\n\n".join(mutant.diff() for mutant in chosen))
        return
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # read when jax is imported; conftest.py says the same
    os.environ["JAX_PLATFORMS"] = "cpu"
    warnings.filterwarnings("ignore", message=r"os\.fork\(\)")
    for name in LIBRARIES:
        importlib.import_module(name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and so out of every `finally`
    with tempfile.TemporaryDirectory(prefix="unlearn_jax_mutants_", ignore_cleanup_errors=True) as work:
        results = campaign(chosen, given.processes, given.limit, pathlib.Path(work), given.report)
    print(table(results))
    print("\n\n".join(f"{verdict}: {mutant.diff()}" for mutant, verdict, _ in results if verdict != "seen"))


if __name__ == "__main__":
    main()
