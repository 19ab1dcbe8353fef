"""Forget requests one after another, without the retain set: how utility and forgetting drift, against retraining each time."""

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.streaming import report
from experiments.streaming.answers import CHOSEN, Programs, class_gaussians_alone, held_back
from experiments.streaming.options import Config
from unlearn_jax.bench.hyperparameters import settings
from unlearn_jax.bench.kinds import require
from unlearn_jax.bench.pools import pool, train_on_halves
from unlearn_jax.bench.population import NULL, comparable, first_members, lost_members, population, without
from unlearn_jax.bench.scoring import Alive, effect_rows, effects_of
from unlearn_jax.bench.setting import Setting, prepare
from unlearn_jax.data import choose
from unlearn_jax.data.splits import generator, sample
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.sharding import Division, Sisa, last_stages
from unlearn_jax.metrics import accuracies, catalogue, klom, memorisation, null, scaled_logits
from unlearn_jax.metrics.null import halves
from unlearn_jax.progress import stage, working
from unlearn_jax.report.drawing import save
from unlearn_jax.report.rows import Row, write_results
from unlearn_jax.runs import Run
from unlearn_jax.training.ensembles import over_members, padded, predict, shared
from unlearn_jax.training.pools import member_keys
from unlearn_jax.types import Cube, Labels, Model, Variables

HALF_MODELS = 32  # on random halves of the training set, whose memorisation orders the stream of the most memorised
OTHER_SEED = 1000  # added to the seed of the run where learning rates are chosen
CHOOSING = 4  # originals for that


class Streamed(NamedTuple):
    """A method's models after each request, and the seconds that a request took."""

    access: str
    summary: str  # of `summaries.SUMMARIES`, or empty
    model: Model  # the network of `after`
    after: Variables  # [members, points of comparison, ...]; of the last ones if there are fewer
    seconds: float  # of one request and member
    cost: float  # of one request, as a share of a retraining


class Draw(NamedTuple):
    """The data and the trained models of a draw."""

    config: Config
    setting: Setting
    requests: dict[str, np.ndarray]  # by kind of stream, `[requests, size]`
    originals: Variables
    oracles: list[dict[str, Variables]]  # at each point of comparison, by kind of stream
    retrained: list[dict[str, Variables]]
    seconds: float  # to retrain one model
    hurried: dict[str, Variables]  # at the last, retrained for as long as SISA takes; empty without SISA
    division: Division | None


def run(config: Config, folder: Run) -> None:
    """Answer all requests by every method, and compare with models retrained without all requested so far.

    Raises:
        ArgumentError: something in the configuration cannot be done.
    """
    values = settings(config, config.method_names())
    values |= settings(config, [name for name in config.replayed if name in METHODS])
    draws = [train(config.drawn(number)) for number in range(config.draws)]  # too few oracles stop the run before any method
    programs = Programs(config, values)
    chosen = choose_rates(config, programs) if config.rates else []
    rates = {(rate.method, rate.summary): rate.value for rate in chosen if rate.chosen}
    folder.write_csv("rates.csv", report.Rate._fields, chosen)
    rows: list[Row] = []
    steps: list[report.Step] = []
    summary = ""
    for number, drawn in enumerate(draws):
        streams = answer_requests(drawn, programs, rates)
        for kind in config.streams:
            with working(f"draw {number}, {kind}: predictions and scores") as update:
                new_rows, drifted = judge(drawn, folder, number, kind, streams[kind])
                update(1.0, f"{len(drifted)} scores")
            rows, steps = rows + new_rows, steps + drifted
        summary = write(config, folder, rows, steps, number + 1)  # a killed run leaves the draws it finished
    print(summary)


def write(config: Config, folder: Run, rows: list[Row], steps: list[report.Step], draws: int) -> str:
    """Writes the tables and figures of the first draws. Returns the summary."""
    write_results(folder, rows)
    folder.write_csv("streaming.csv", report.COLUMNS, map(report.cells, steps))
    ends = report.over_draws(steps)
    folder.write_csv("summary.csv", report.END_COLUMNS, map(report.end_cells, ends))
    title = report.title(rows, config.requests, config.request_size, draws)
    save(report.frontier(ends, title), folder, "frontier")
    save(report.drift(ends, title), folder, "drift")
    summary = report.summary(ends, title)
    folder.write_text("summary.md", summary)
    return summary


def train(config: Config) -> Draw:
    """The data of a draw, its streams, and all models that are trained from scratch but for SISA's."""
    setting, members, sets = prepare(config), config.members, len(config.streams)
    requests = {kind: draw_requests(config, setting, kind) for kind in config.streams}
    everything = np.ones(len(setting.data.train.labels), bool)
    originals = pool(config, setting, setting.problem, everything, "original", members)
    lost_members(config, "original", originals.variables, 2)
    of_sets = setting._replace(identity={**setting.identity, "forget_sets": sets})
    oracles, retrained, seconds = [], [], 0.0

    def trained_without(count: int, role: str, each: int, problem: Any = setting.problem) -> tuple[dict[str, Variables], float]:
        """The models of all streams in one pool, so that the network is compiled once."""
        forget = np.stack([np.isin(np.arange(len(everything)), requests[kind][:count]) for kind in config.streams])
        found = pool(config, of_sets, problem, ~forget[np.arange(each * sets) % sets], role, each * sets)
        by_kind = {
            kind: jax.tree.map(lambda leaf, at=at: leaf[at::sets], found.variables) for at, kind in enumerate(config.streams)
        }
        return by_kind, found.seconds

    for count in config.checkpoints:
        of_kinds, seconds = trained_without(count, "oracle", 2 * members)
        for models in of_kinds.values():
            lost_members(config, "retrained", models, NULL)
        oracles.append(of_kinds)
        retrained.append(trained_without(count, "retrain", members)[0])
    hurried: dict[str, Variables] = {}
    division = None
    if config.shards:
        sisa = Sisa(shards=config.shards, slices=config.slices)
        division = jax.jit(lambda key: sisa.divide(key, setting.problem))(member_keys(config.seed, "dealt", 1)[0])
        share = float(np.mean([sisa_share(config, division, of_kind) for of_kind in requests.values()]))
        recipe = dataclasses.replace(setting.problem.recipe, epochs=max(round(share * config.train.epochs), 1))
        hurried, _ = trained_without(config.requests, "retrain", members, dataclasses.replace(setting.problem, recipe=recipe))
    return Draw(config, setting, requests, originals.variables, oracles, retrained, seconds, hurried, division)


def draw_requests(config: Config, setting: Setting, kind: str) -> np.ndarray:
    """The rows that each request asks to forget, `[requests, size]`, disjoint.

    Raises:
        ArgumentError: the requests ask for more rows than there are.
    """
    data, count = setting.data, config.requests * config.request_size
    labels = data.train.labels
    most = (len(labels) - 1) // config.requests
    require(config.request_size <= most, "--request-size", config.request_size, f"there are examples for {most} a request")
    if kind == "memorised":
        masks, variables = train_on_halves(config, setting, HALF_MODELS)
        right = predict(setting.problem.model, variables, data.train.images, config.strategy).argmax(axis=-1) == labels
        ties = generator("ties", config.seed).random(len(labels))
        return np.lexsort([ties, -memorisation(right, masks).score])[:count].reshape(config.requests, -1)
    label = None
    if kind == "class":
        sizes = np.bincount(labels, minlength=data.classes)
        large = np.flatnonzero((sizes >= count) & (sizes < len(labels)))
        most = int(sizes.max()) // config.requests
        require(len(large) > 0, "--request-size", config.request_size, f"a class has examples for {most} a request at most")
        label = int(large[config.seed % len(large)])
    of_class = {"random": "random", "class": "class_part"}[kind]
    mask = choose(labels, kind=of_class, size=count, label=label, classes=data.classes, seed=config.seed)
    return generator("order of requests", config.seed).permutation(np.flatnonzero(mask)).reshape(config.requests, -1)


def choose_rates(config: Config, programs: Programs) -> list[report.Rate]:
    """Learning rates of every method and summary: the largest that moves held-out accuracy by at most `--price` points.

    The originals, wrong labels and the stream (random) are of another seed. No oracle is looked at.
    """
    other = dataclasses.replace(config, seed=config.seed + OTHER_SEED)
    setting = prepare(other)
    requests = draw_requests(other, setting, "random")
    everything = np.ones(len(setting.data.train.labels), bool)
    originals = pool(other, setting, setting.problem, everything, "original", CHOOSING).variables
    held_out, model = setting.data.held_out, setting.problem.model

    def right(variables: Variables) -> np.ndarray:
        logits = predict(model, variables, held_out.images, config.strategy)
        return np.where(np.isfinite(logits).all(axis=(1, 2)), 100 * (logits.argmax(-1) == held_out.labels).mean(axis=1), 0.0)

    before, found = right(originals).mean(), []
    for name in programs.names:
        grid = programs.grid(name, config.rates)
        for summary in programs.summaries(name) if len(grid) else ():
            costs = []
            after, _ = programs.answer(name, other, setting, originals, [(summary, requests, float(rate)) for rate in grid])
            for models in after:
                costs.append(float(before - right(jax.tree.map(lambda leaf: leaf[:, -1], models)).mean()))
            cheap = [number for number, cost in enumerate(costs) if abs(cost) <= config.price]
            best = max(cheap, default=0)
            found += [
                report.Rate(name, summary, CHOSEN, float(rate), cost, int(number == best))
                for number, (rate, cost) in enumerate(zip(grid, costs, strict=True))
            ]
    return found


def answer_requests(drawn: Draw, programs: Programs, rates: dict[tuple[str, str], float]) -> dict[str, dict[str, Streamed]]:
    """The streams of every method with every summary, and of those that retrain: kind of stream -> name -> models."""
    config, setting = drawn.config, drawn.setting
    streams: dict[str, dict[str, Streamed]] = {kind: {} for kind in config.streams}
    model, points = setting.problem.model, len(config.checkpoints)
    for kind in config.streams:
        originals = jax.tree.map(lambda leaf: np.repeat(leaf[:, None], points, axis=1), drawn.originals)
        streams[kind]["original"] = Streamed("none", "", model, originals, 0.0, 0.0)
        again = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *(at[kind] for at in drawn.retrained))
        streams[kind]["retrain"] = Streamed("R", "", model, again, drawn.seconds, 1.0)
    if config.shards:
        for kind, answered in answer_by_sisa(drawn).items():
            streams[kind]["sisa"] = answered
            share = answered.cost
            models = jax.tree.map(lambda leaf: leaf[:, None], drawn.hurried[kind])
            streams[kind][report.HURRIED] = Streamed("R", "", model, models, share * drawn.seconds, share)
    for name in programs.names:
        for summary in programs.summaries(name):
            rate = rates.get((name, summary))
            asked = [(summary, drawn.requests[kind], rate) for kind in config.streams]
            after, seconds = programs.answer(name, config, setting, drawn.originals, asked)
            cost = programs.cost(name)
            for kind, models in zip(config.streams, after, strict=True):
                label = f"{name} + {summary}" if summary else name
                streams[kind][label] = Streamed(held_back(summary), summary, model, models, seconds, cost)
    if "classes" in config.stand_ins and config.replayed:
        for kind, models in class_gaussians_alone(drawn.config, setting, drawn.requests).items():
            last = jax.tree.map(lambda leaf: leaf[:, None], models)
            streams[kind][report.ALONE] = Streamed("summary", "classes", model, last, drawn.seconds, 1.0)
    return streams


def sisa_share(config: Config, division: Division, requests: np.ndarray) -> float:
    """The stages of SISA that a request trains again, as a share of all."""
    shard, part = (np.asarray(of_rows)[requests] for of_rows in division)  # [requests, size]
    inside = shard[..., None] == np.arange(config.shards)
    first = np.where(inside, part[..., None], config.slices).min(axis=1)  # the first stage to train again, [requests, shards]
    return float((config.slices - first).mean() / config.slices)


def answer_by_sisa(drawn: Draw) -> dict[str, Streamed]:
    """The streams of SISA. It trains ensembles of its own, not the originals, and requests retrain the shards they touch.

    Its networks are, bit for bit, those that training without the examples gives, so that they are made at the points of
    comparison only; what the requests between them would have cost is counted.
    """
    config, setting, members, division = drawn.config, drawn.setting, drawn.config.members, drawn.division
    assert division is not None
    sisa, problem, counts = Sisa(shards=config.shards, slices=config.slices), setting.problem, config.checkpoints
    rows = np.arange(len(setting.data.train.labels))
    masks = np.stack([[np.isin(rows, of_kind[:count]) for count in counts] for of_kind in drawn.requests.values()])

    def stream(key, division, problem, masks):
        trained = sisa.train(key, problem, division)

        def of_kind(masks):
            def one(carry, mask):
                trained, before = carry
                asked = dataclasses.replace(problem, forget=mask)
                after = sisa.unlearn(key, asked, division, trained, mask & ~before)
                return (after, mask), last_stages(after)

            return jax.lax.scan(one, (trained, jnp.zeros_like(masks[0])), masks)[1]

        return jax.lax.map(of_kind, masks)

    keys, each = padded(member_keys(config.seed, "sisa in a stream", members)), shared((division, problem, masks))
    with working("sisa") as update:
        program = over_members(stream, (True, False, False, False), config.strategy).lower(keys, *each).compile()
        start = time.perf_counter()
        after = jax.tree.map(lambda leaf: np.asarray(leaf)[:members], jax.block_until_ready(program(keys, *each)))
        took = (time.perf_counter() - start) / members
        update(1.0, f"{took:.2f} s a member")
    model = METHODS["sisa"].outcome(problem.model)
    found = {}
    for number, (kind, requests) in enumerate(drawn.requests.items()):
        models, share = jax.tree.map(lambda leaf, at=number: leaf[:, at], after), sisa_share(config, division, requests)
        found[kind] = Streamed(METHODS["sisa"].access, "", model, models, share * drawn.seconds, share)
    return found


def judge(drawn: Draw, folder: Run, number: int, kind: str, streams: dict[str, Streamed]) -> tuple[list[Row], list[report.Step]]:
    """Scores all methods in one stream at every point of comparison, against models retrained without all asked for so far."""
    config, data, requests = drawn.config, drawn.setting.data, drawn.requests[kind]
    train, asked, size = data.train, requests.ravel(), requests.shape[1]
    never_asked = np.flatnonzero(~np.isin(np.arange(len(train.labels)), asked))
    kept = sample(never_asked, config.evaluation.retain_size, generator("retained examples that are judged", config.seed))
    images = np.concatenate([train.images[asked], train.images[kept], data.test.images])
    labels = Labels(train.labels[asked], train.labels[kept], data.test.labels)
    named = f"{kind}-{number}"
    folder.write_text(f"forget_sets/{named}.txt", "".join(f"{row}\n" for row in data.published.train[asked]))

    def answers(variables: Variables, model: Model) -> Cube:
        logits = predict(model, variables, images, config.strategy)
        return Cube(*np.split(logits, [len(asked), len(asked) + len(kept)], axis=1))

    def first(cube: Cube, count: int) -> Cube:
        return cube._replace(forget=cube.forget[:, : count * size])

    with stage("predictions"):
        of_oracles = [answers(at[kind], drawn.setting.problem.model) for at in drawn.oracles]
        cubes = {name: answers(_flat(streamed.after), streamed.model) for name, streamed in streams.items()}
    originals = population(drawn.originals, jax.tree.map(lambda leaf: leaf[:: len(config.checkpoints)], cubes["original"]))
    rows: list[Row] = []
    steps: list[report.Step] = []
    for place, count in enumerate(config.checkpoints):
        lost = lost_members(config, "retrained", (drawn.oracles[place][kind], of_oracles[place]), NULL)
        oracles = first(without(of_oracles[place], lost), count)
        seen = labels._replace(forget=labels.forget[: count * size])
        scale = Scale(oracles, seen, comparable(config.members, len(oracles.forget)), config.evaluation.splits, config.seed)
        before: Alive = (first(originals.cube, count), originals.lost)
        for name, streamed in streams.items():
            points = len(jax.tree.leaves(streamed.after)[0][0])
            at = place - (len(config.checkpoints) - points)
            if at < 0:
                continue
            models = jax.tree.map(lambda leaf, at=at: leaf[:, at], streamed.after)
            cube = first(jax.tree.map(lambda leaf, at=at, points=points: leaf[at::points], cubes[name]), count)
            alive = population(models, cube)
            if (n := min(alive.members, scale.n)) < 2:
                continue
            found = effects_of((alive.cube, alive.lost), before, oracles, seen)
            about = (config.exp, config.dataset, config.model, f"{named}-after-{count}", name, streamed.access, "", "")
            common = Row(*about, n_members=n, n_oracles=len(oracles.forget), seconds=streamed.seconds)
            rows += effect_rows(common, found)
            levels = scale.levels(first_members(alive.cube, n), size)
            rows += [
                common._replace(metric=catalogue.accuracy.name, split=split, **report.as_row(levels[split]))
                for split in Cube._fields
            ]
            facts: dict[str, Any] = {
                **{"stream": kind, "draw": number, "request": count, "forgotten": count * size},
                **{"method": name, "access": streamed.access, "summary": streamed.summary},
                **{"members": n, "seconds": streamed.seconds, "cost": streamed.cost},
            }
            steps.append(report.Step(**facts, **report.sizes(found), **levels))
    return rows, steps


def _flat(after: Variables) -> Variables:
    """Members and points of comparison along one axis."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), after)


class Scale:
    """What retrained models score against each other on one forget set: KLOM and accuracies.

    Args:
        oracles: their logits.
        labels: of the examples.
        n: models on each side.
        splits: of the oracles into halves.
        seed: draws them.
    """

    def __init__(self, oracles: Cube, labels: Labels, n: int, splits: int, seed: int):
        self.labels, self.n, self.splits, self.seed = labels, n, splits, seed
        self.margins = scaled_logits(oracles.forget, labels.forget)
        self.nulls: dict[int, tuple] = {}
        self.right = {split: np.asarray(shares) for split, shares in accuracies(oracles, labels)._asdict().items()}
        first, second = halves(jax.random.key(seed), len(oracles.forget), n, splits).swapaxes(0, 1)
        self.apart = {split: shares[first].mean(axis=1) - shares[second].mean(axis=1) for split, shares in self.right.items()}

    def levels(self, cube: Cube, size: int) -> dict[str, Any]:
        """KLOM on all requested so far and on the first request, of `size` examples; accuracies; each with its null."""
        margins = scaled_logits(cube.forget, self.labels.forget)
        found = {"klom": self._klom(margins, len(self.labels.forget)), "klom_first": self._klom(margins, size)}
        for split, shares in accuracies(cube, self.labels)._asdict().items():
            mean, apart = float(self.right[split].mean()), self.apart[split]
            low, high = (mean + float(np.quantile(apart, end)) for end in (0.025, 0.975))
            found[split] = report.Level(float(np.mean(shares)), mean, float(apart.std()), low, high)
        return found

    def _klom(self, margins: np.ndarray, count: int) -> report.Level:
        def mean_of(models: np.ndarray, others: np.ndarray) -> float:
            return float(klom(models, others).mean())

        ours, theirs = margins[:, :count], self.margins[:, :count]
        if count not in self.nulls:
            self.nulls[count] = null(mean_of, theirs, self.n, self.splits, key=jax.random.key(self.seed))
        n = len(ours)
        value = np.mean([mean_of(ours, half) for half in (theirs[:n], theirs[n : 2 * n])])
        return report.Level(float(value), *self.nulls[count])
