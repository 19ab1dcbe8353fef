"""Forget requests one after another, without the retain set: how utility and forgetting drift, against retraining each time."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.streaming import report
from experiments.streaming.options import Config
from unlearn_jax.bench.forget_set import ForgetSet, forget_set
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.judging import train_oracles
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.pools import pool
from unlearn_jax.bench.population import lost_members, population, score_alive
from unlearn_jax.bench.scoring import null_of, scored_row
from unlearn_jax.bench.setting import Setting, prepare
from unlearn_jax.data import choose
from unlearn_jax.data.splits import generator
from unlearn_jax.methods import METHODS, traceable
from unlearn_jax.methods.sharding import Sisa
from unlearn_jax.methods.streaming import Anchor, anchor, lift
from unlearn_jax.metrics import catalogue, klom, null, scaled_logits
from unlearn_jax.progress import working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import REFERENCES, Row, write_results
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import over_members, padded, shared
from unlearn_jax.training.pools import member_keys
from unlearn_jax.types import Cube, Model, Variables


class Streamed(NamedTuple):
    """A method's models after each request, and the seconds that a request took."""

    access: str
    model: Model  # the network of `after`
    after: Variables  # [members, requests, ...]
    seconds: float  # of one request and member


def run(config: Config, folder: Run) -> None:
    """Answer all requests by every method, and compare after each with models retrained without all requested so far.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    setting = prepare(config)
    requests = draw_requests(config, setting)
    everything = np.ones(len(setting.data.train.labels), bool)
    originals = pool(config, setting, setting.problem, everything, "original", config.members)
    lost_members(config, "original", originals.variables, 2)
    for number in range(1, config.requests + 1):  # too few oracles stop the run before a method is trained
        train_oracles(set_after(config, folder, setting, requests[:number]))
    streams = answer_requests(config, setting, requests, originals.variables)
    if config.shards:
        streams["sisa"] = answer_by_sisa(config, setting, requests)
    rows: list[Row] = []
    steps: list[report.Step] = []
    for number in range(1, config.requests + 1):
        forget = set_after(config, folder, setting, requests[:number])
        new_rows, drifted = judge(config, forget, requests[:number], originals.variables, streams)
        rows, steps = rows + new_rows, steps + drifted
    write_results(folder, rows)
    folder.write_csv("streaming.csv", report.COLUMNS, map(report.cells, steps))
    title = report.title(rows, config.requests, config.request_size)
    save(report.drift(steps, title), folder, "drift")
    summary = report.summary(steps, title)
    folder.write_text("summary.md", summary)
    print(summary)


def draw_requests(config: Config, setting: Setting) -> np.ndarray:
    """The rows that each request asks to forget, `[requests, size]`, disjoint.

    Raises:
        ArgumentError: the requests ask for more rows than there are.
    """
    labels, count = setting.data.train.labels, config.requests * config.request_size
    most = (len(labels) - 1) // config.requests
    require(config.request_size <= most, "--request-size", config.request_size, f"there are examples for {most} a request")
    mask = choose(labels, kind="random", size=count, classes=setting.data.classes, seed=config.seed)
    return generator("order of requests", config.seed).permutation(np.flatnonzero(mask)).reshape(config.requests, -1)


def answer_requests(config: Config, setting: Setting, requests: np.ndarray, originals: Variables) -> dict[str, Streamed]:
    """The stream of every method, and of the same method with an anchor."""
    streams: dict[str, Streamed] = {}
    make_anchors = over_members(anchor, (False, True), config.strategy)
    anchors = make_anchors(setting.problem, pad_members(originals)) if config.anchor else None
    for name, values in settings(config, config.method_names()).items():
        access = METHODS[name].access
        streams[name] = answer_stream(config, setting, name, values, requests, originals, None)
        if anchors is not None:
            held = answer_stream(config, setting, name, values, requests, originals, anchors)
            streams[f"{name} + anchor"] = held._replace(access=f"{access} + summary")
    return streams


def answer_stream(
    config: Config,
    setting: Setting,
    name: str,
    values: dict[str, Any],
    requests: np.ndarray,
    originals: Variables,
    anchors: Anchor | None,
) -> Streamed:
    """The stream of one method, with anchors or (None) without."""
    static, numbers = traceable(name, values)

    def stream(key, variables, held, problem, requests, numbers, strength):
        method = METHODS[name].make(**static, **numbers)
        return lift(method)(key, problem, variables, requests, held, strength)

    members = config.members
    batched = (True, True, anchors is not None, False, False, False, False)
    keys = padded(member_keys(config.seed, f"{name} in a stream", members))
    shared_by_all = (setting.problem, shared(requests), shared(jax.tree.map(np.float32, numbers)), np.float32(config.anchor))
    arguments = keys, pad_members(originals), anchors, *shared_by_all
    label = f"{name}{' + anchor' if anchors is not None else ''}"
    after, seconds = run_timed(config, label, over_members(stream, batched, config.strategy), arguments)
    return Streamed(METHODS[name].access, setting.problem.model, after, seconds)


def run_timed(config: Config, label: str, program: Any, arguments: tuple) -> tuple[Variables, float]:
    """The result of a program over members, and seconds for one request and member, without compilation."""
    with working(label) as update:
        compiled = program.lower(*arguments).compile()
        start = time.perf_counter()
        after = jax.block_until_ready(compiled(*arguments))
        seconds = (time.perf_counter() - start) / (config.members * config.requests)
        update(1.0, f"{seconds:.3f} s a request and member")
    return jax.tree.map(lambda leaf: np.asarray(leaf)[: config.members], after), seconds


def answer_by_sisa(config: Config, setting: Setting, requests: np.ndarray) -> Streamed:
    """The stream of SISA. It trains ensembles of its own, not the originals, and each request retrains the shards it touches."""
    sisa, members = Sisa(shards=config.shards, slices=config.slices), config.members

    def begin(key, problem):
        divide_key, train_key = jax.random.split(key)
        division = sisa.divide(divide_key, problem)
        return train_key, division, sisa.train(train_key, problem, division)

    def stream(begun, problem, requests):
        key, division, trained = begun
        return sisa.answer(key, problem, division, trained, requests)

    keys, asked = padded(member_keys(config.seed, "sisa in a stream", members)), shared(requests)
    with working("sisa, ensembles"):
        begun = over_members(begin, (True, False), config.strategy)(keys, setting.problem)
    arguments = begun, setting.problem, asked
    after, seconds = run_timed(config, "sisa", over_members(stream, (True, False, False), config.strategy), arguments)
    return Streamed(METHODS["sisa"].access, METHODS["sisa"].outcome(setting.problem.model), after, seconds)


def pad_members(variables: Variables) -> Variables:
    """Variables with members padded to a multiple of the number of devices."""
    return padded(jax.tree.map(jnp.asarray, variables))


def set_after(config: Config, folder: Run, setting: Setting, requests: np.ndarray) -> ForgetSet:
    """The forget set of all `requests` together."""
    mask = np.isin(np.arange(len(setting.data.train.labels)), requests)
    return forget_set(config, folder, setting, mask, f"after-{len(requests)}")


def judge(
    config: Config, forget: ForgetSet, requests: np.ndarray, originals: Variables, streams: dict[str, Streamed]
) -> tuple[list[Row], list[report.Step]]:
    """Scores all methods after the last of `requests`, against models retrained without all of them."""
    number, oracles = len(requests), train_oracles(forget).cube
    null = null_of(forget, oracles)
    first = np.isin(forget.rows["forget"], requests[0])
    retrained = forget.pool("retrain", config.members)
    streamed = {name: jax.tree.map(lambda leaf: leaf[:, number - 1], stream.after) for name, stream in streams.items()}
    seconds = {"retrain": retrained.seconds, **{name: stream.seconds for name, stream in streams.items()}}
    access = {name: METHODS[name].access for name in REFERENCES} | {name: stream.access for name, stream in streams.items()}
    rows: list[Row] = []
    steps: list[report.Step] = []
    for name, variables in {"original": originals, "retrain": retrained.variables, **streamed}.items():
        cube = forget.logits(variables, streams[name].model if name in streams else None)
        cube = population(variables, cube).cube
        evaluation, n = score_alive(cube, null)
        if evaluation is None:
            continue
        about = (config.exp, config.dataset, config.model, forget.name, name, access[name], "", "")
        common = Row(*about, n_members=n, n_oracles=len(oracles.forget), seconds=seconds.get(name, 0.0))
        common = common._replace(band=evaluation.band, inside=evaluation.inside)
        rows += [scored_row(common, score) for score in evaluation.scores]
        levels = {score.name: report.Level(score.value, *score.null) for score in evaluation.scores}
        shown = {split: levels[catalogue.accuracy.on(split)] for split in Cube._fields}
        shown["klom"] = levels[catalogue.klom.on("forget")]
        shown["klom_first"] = score_first_request(cube.forget[:n, first], oracles.forget[:, first], forget.labels.forget[first])
        steps.append(report.Step(number, requests.size, name, access[name], n, seconds.get(name, 0.0), **shown))
    return rows, steps


def score_first_request(logits: np.ndarray, oracles: np.ndarray, labels: np.ndarray) -> report.Level:
    """KLOM on the examples of the first request, n models against n oracles, with its null."""
    n = len(logits)
    margins, oracle_margins = scaled_logits(logits, labels), scaled_logits(oracles, labels)
    value = np.mean([klom(margins, half).mean() for half in (oracle_margins[:n], oracle_margins[n : 2 * n])])
    return report.Level(float(value), *null(lambda a, b: float(klom(a, b).mean()), oracle_margins, n, key=jax.random.key(0)))
