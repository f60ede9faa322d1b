"""Golden numbers of the model: what its formulas give, calculated in float64 with JAX.

    python generate.py DIR

writes DIR/<case>.json for every case below. It knows nothing of easq's code: forward pass, losses
and gradients are written from the formulas and differentiated by JAX, the optimisers, the
normaliser, the reservoir and the price of alignment are plain NumPy. Every case asserts that it
shows what it is there for, so that it cannot come to show nothing.

A file holds `settings`; `parameters` at the start ({"shape", "values"} by safetensors name);
`batches` (step t, from 0, takes batch t modulo their number; from the second round on its pairs are
offered only with `repeat_pairs`); `first`, what the initial parameters give for batch 0 when its
pairs are the drawn ones (scores of the views of the groups, then chosen and rejected in turn;
losses, null over an empty set; the gradient of each loss by every parameter, exact zeros included);
and `after`, the whole state after some steps. Tensors outside `parameters` are flat, row by row.

All inputs and initial values are exact in float32, so that a float32 program starts from the same
numbers. No number hangs on a random draw: on every step there are either too few pairs to draw or
just as many as are drawn.

What the formulas leave open and is settled here:
- Adam is Kingma & Ba's, m̂ / (sqrt(v̂) + eps). A gradient is scaled by clip / norm where its norm is
  larger; the norm is over W0, b0 and the main head (not over embeddings, which are not clipped).
- Row-wise Adagrad adds the mean of a row's squared gradient to its accumulator (0.1 at first) and
  then takes lr * gradient / sqrt(accumulator) from the row.
- The normaliser keeps the running mean and the population deviation (1 where it is below 1e-6) of
  the first views of the groups, a batch being observed before it is normalised. Drawn pairs are
  not observed.
- L_DPO in its live form is there from the first draw on, that step included.
- A group of parameters that no loss of a step reaches is not stepped: no decay of its moments.
- With a fixed weight of 0 L_DPO is not a loss of the step.
- Price: a tie counts half; the new weight is used for learning the batch that it was found from.
- Adapter: embeddings, W0, b0 and normaliser are constants (their gradients are 0 here).
"""

import functools
import json
import math
import os
import sys

# Compiling a few programs, not running them, is what takes the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

LOSSES = ["main", "satisfaction", "dpo", "same_path"]
# Views of the groups and drawn pairs of a step, filled up to a fixed shape and masked.
VIEWS, PAIRS = 8, 4
CLIP_DENSE = 5.0
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
# Adam takes whole steps by gradients that are rounding only: no case has such a gradient.
RESOLVED = 1e-7
ADAGRAD_START = 0.1
EW_RATE, LOG_PRICE_RATE, PRICE_START, PRICE_WAIT = 0.01, 0.01, 0.3, 100
PRICE_RANGE = (0.02, 4.0)

stop = jax.lax.stop_gradient


def softplus(z):
    return jnp.logaddexp(z, 0.0)


# --- the formulas -------------------------------------------------------------------------------


def head(parameters, name, u):
    """Scores and gates of a mixture of experts; without gate tensors every gate is 1."""
    a = softplus(u)
    hidden = jnp.einsum("nd,ked->nke", a, parameters[f"{name}.experts.hidden.weight"])
    hidden = softplus(hidden + parameters[f"{name}.experts.hidden.bias"])
    output = jnp.einsum("nke,ke->nk", hidden, parameters[f"{name}.experts.output.weight"])
    output = softplus(output + parameters[f"{name}.experts.output.bias"])
    gates = jnp.ones_like(output)
    if f"{name}.gate.weight" in parameters:
        gates = a @ parameters[f"{name}.gate.weight"].T + parameters[f"{name}.gate.bias"]
        gates = jnp.maximum(gates, 0.0)
    return jnp.sum(gates * output, axis=1), gates


def forward(path, parameters, inputs):
    """ŷ and ŝ of every view, with the gates of both heads."""
    # One matrix per field holds each view's share of each row: the mean over its ids.
    tables = [parameters[f"embeddings.{field['name']}.weight"] for field in FIELDS]
    embedded = [share @ table for share, table in zip(inputs["shares"], tables)]
    x = jnp.concatenate(embedded + [inputs["dense"]], axis=1)
    h = x @ parameters["projection.weight"].T + parameters["projection.bias"]
    if path == "twin":
        y, gates = head(parameters, "main", h)
        return y, y, gates, gates
    if path == "shared":
        h_main = h_satisfaction = h
    elif path == "tower":
        h_main = h
        h_satisfaction = stop(x) @ parameters["imputation.projection.weight"].T
        h_satisfaction = h_satisfaction + parameters["imputation.projection.bias"]
    else:
        lora = stop(x) @ parameters["projection.lora_A.weight"].T
        lora = inputs["lora_scale"] * (lora @ parameters["projection.lora_B.weight"].T)
        h_main = h + inputs["inject"] * stop(lora)
        h_satisfaction = stop(h) + lora
    y, main_gates = head(parameters, "main", h_main)
    s, satisfaction_gates = head(parameters, "satisfaction", h_satisfaction)
    return y, s, main_gates, satisfaction_gates


def masked_mean(mask, values):
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1.0)


def losses(path, dpo_form, parameters, inputs):
    y, s, main_gates, satisfaction_gates = forward(path, parameters, inputs)
    live, chosen, rejected = slice(0, VIEWS), slice(VIEWS, None, 2), slice(VIEWS + 1, None, 2)
    lead, live_s = y[live, None] - y[None, live], s[live, None] - s[None, live]
    pair_lead, drawn = y[chosen] - y[rejected], inputs["drawn"]
    # Behaviour pairs, and answers that are read as a reward: one mean over both.
    direction = inputs["direction"]
    mask = jnp.concatenate([inputs["behavior"].reshape(-1), direction != 0])
    terms = jnp.concatenate([softplus(-lead).reshape(-1), softplus(-direction * pair_lead)])
    main = masked_mean(mask, terms)
    satisfaction = masked_mean(drawn, softplus(-(s[chosen] - s[rejected])))
    same_path = masked_mean(drawn, softplus(-pair_lead))
    if dpo_form == "pairs":
        c = inputs["dpo_offset"]
        m = jnp.log((y[chosen] + c) / (y[rejected] + c))
        m = m - stop(jnp.log((s[chosen] + c) / (s[rejected] + c)))
        dpo = masked_mean(drawn, softplus(-inputs["dpo_beta"] * m))
    else:
        p = jax.nn.sigmoid(stop(live_s))
        terms = p * softplus(-lead) + (1.0 - p) * softplus(lead)
        dpo = masked_mean(inputs["live"], terms)
    every = jnp.stack([main, satisfaction, dpo, same_path])
    return every, (every, y, s, main_gates, satisfaction_gates)


@functools.lru_cache(maxsize=None)
def compiled(path, dpo_form):
    return jax.jit(jax.jacrev(functools.partial(losses, path, dpo_form), has_aux=True))


# --- settings, parameters, views ----------------------------------------------------------------

BACKBONE = ["projection.weight", "projection.bias"]
FIELDS = [
    {"field": 3, "name": "user", "rows": 5, "dim": 2},
    {"field": 11, "name": "item", "rows": 4, "dim": 3},
]
SETTINGS = {
    "dense": 3,
    "fields": FIELDS,
    "hidden_dim": 4,
    "expert_dim": 3,
    "lora_rank": 2,
    "lora_alpha": 3.0,
    "main_experts": 3,
    "satisfaction_experts": 2,
    "inject_lora": True,
    "dpo": "live",
    "dpo_beta": 10.0,
    "dpo_offset": 10.0,
    "satisfaction_weight": 1.0,
    "dpo_weight": 0.5,
    "price_control": False,
    "behavior_budget_points": 1.0,
    "learning_rate": 0.002,
    "lora_learning_rate": 0.005,
    "embedding_learning_rate": 0.05,
    "clip_norm": 5.0,
    "reward_margin": 0.2,
    "normalizer_views": 0,
    "reservoir_batch_pairs": 2,
    "reservoir_reuse": 1000,
    "adapter": False,
    "method": "easq",
    "method_weight": 1.0,
}
# Where ŝ comes from, if not from LoRA.
PATHS = {"no-lora": "shared", "imputation": "tower"}
WITH_SATISFACTION = ("easq", "no-moe", "no-lora", "imputation")


def rounded(values, steps):
    return np.round(np.asarray(values) * steps) / steps


def initial_parameters(settings, random):
    """Initial values; B is not 0, so that LoRA shows from the first step on."""
    method, d, e, r = (settings[k] for k in ("method", "hidden_dim", "expert_dim", "lora_rank"))
    k = sum(field["dim"] for field in settings["fields"]) + settings["dense"]
    shapes = {}
    for field in settings["fields"]:
        shapes[f"embeddings.{field['name']}.weight"] = (field["rows"], field["dim"]), 0.5, 0.0
    shapes["projection.weight"] = (d, k), 1.0 / math.sqrt(k), 0.0
    shapes["projection.bias"] = (d,), 0.3, 0.0
    if method == "imputation":
        shapes["imputation.projection.weight"] = (d, k), 1.0 / math.sqrt(k), 0.0
        shapes["imputation.projection.bias"] = (d,), 0.3, 0.0
    elif method != "no-lora":
        # Where LoRA is not part of the method it is as it begins, and has no effect.
        b_deviation = 0.4 if method in WITH_SATISFACTION else 0.0
        shapes["projection.lora_A.weight"] = (r, k), 1.0 / math.sqrt(k), 0.0
        shapes["projection.lora_B.weight"] = (d, r), b_deviation, 0.0
    for name in ("main", "satisfaction"):
        experts = settings[f"{name}_experts"]
        if method != "no-moe":
            shapes[f"{name}.gate.weight"] = (experts, d), 0.9 / math.sqrt(d), 0.0
            shapes[f"{name}.gate.bias"] = (experts,), 0.3, 0.5
        shapes[f"{name}.experts.hidden.weight"] = (experts, e, d), 1.0 / math.sqrt(d), 0.0
        shapes[f"{name}.experts.hidden.bias"] = (experts, e), 0.3, 0.0
        shapes[f"{name}.experts.output.weight"] = (experts, e), 1.0 / math.sqrt(e), 0.0
        shapes[f"{name}.experts.output.bias"] = (experts,), 0.3, 0.0
    parameters = {
        name: rounded(mean + deviation * random.standard_normal(shape), 1024)
        for name, (shape, deviation, mean) in shapes.items()
    }
    if settings["normalizer_views"] == 0:
        parameters["normalizer.mean"] = np.array([0.5, -0.25, 1.0][: settings["dense"]])
        parameters["normalizer.std"] = np.array([1.5, 0.75, 2.0][: settings["dense"]])
    return parameters


def view(random, reward=None, dense=None, sparse=None):
    if reward is None:
        reward = rounded(2.0 * random.random(), 8)
    if dense is None:
        dense = rounded(2.0 * random.standard_normal(3), 64).tolist()
    if sparse is None:
        sparse = [[f["field"], [int(random.integers(0, 100))]] for f in FIELDS]
    return {"dense": dense, "sparse": sparse, "reward": float(reward)}


def some_pairs(random, count):
    return [[view(random), view(random)] for _ in range(count)]


def some_batches(random, sizes=((3, 2, 1), (4, 2), (2, 3, 2)), pairs=(2, 0, 0)):
    """Batches of groups of these sizes, each with so many pairs."""
    return [
        {
            "groups": [[view(random) for _ in range(size)] for size in groups],
            "pairs": some_pairs(random, count),
        }
        for groups, count in zip(sizes, pairs)
    ]


# --- a learner ----------------------------------------------------------------------------------


class Normalizer:
    def __init__(self, parameters, dense, limit):
        self.limit, self.views = limit, 0
        self.mean = parameters.get("normalizer.mean", np.zeros(dense)).copy()
        self.squares = np.zeros(dense)
        self.std = parameters.get("normalizer.std", np.ones(dense)).copy()

    def observe(self, views):
        for view in views:
            if self.views == self.limit:
                return
            self.views += 1
            dense = np.array(view["dense"])
            from_mean = dense - self.mean
            self.mean += from_mean / self.views
            self.squares += from_mean * (dense - self.mean)
            deviation = np.sqrt(self.squares / self.views)
            self.std = np.where(deviation < 1e-6, 1.0, deviation)

    def normalized(self, dense):
        return np.clip((dense - self.mean) / self.std, -CLIP_DENSE, CLIP_DENSE)


class Adam:
    def __init__(self, parameters, names, rate):
        self.names, self.rate, self.steps = names, rate, 0
        self.m = {name: np.zeros_like(parameters[name]) for name in names}
        self.v = {name: np.zeros_like(parameters[name]) for name in names}

    def step(self, parameters, gradients, scale=1.0):
        self.steps += 1
        one, two = ADAM_BETAS
        for name in self.names:
            g = scale * gradients[name]
            self.m[name] = one * self.m[name] + (1.0 - one) * g
            self.v[name] = two * self.v[name] + (1.0 - two) * g * g
            m = self.m[name] / (1.0 - one**self.steps)
            v = self.v[name] / (1.0 - two**self.steps)
            assert np.all((v == 0.0) | (v > RESOLVED**2)), f"the gradient of {name} is rounding"
            parameters[name] = parameters[name] - self.rate * m / (np.sqrt(v) + ADAM_EPSILON)

    def state(self):
        return {"steps": self.steps, "m": flat(self.m), "v": flat(self.v)}


class MainGroup:
    """W0, b0 and the main head under Adam with clipping; embeddings under row-wise Adagrad."""

    def __init__(self, settings, parameters):
        self.settings = settings
        backbone = [] if settings["adapter"] else BACKBONE
        names = backbone + [n for n in parameters if n.startswith("main.")]
        self.adam = Adam(parameters, names, settings["learning_rate"])
        self.accumulators = {
            name: np.full(len(parameters[name]), ADAGRAD_START)
            for name in parameters
            if name.startswith("embeddings.") and not settings["adapter"]
        }

    def step(self, parameters, gradients):
        """Returns the norm before clipping."""
        norm = math.sqrt(sum(float(np.sum(gradients[n] ** 2)) for n in self.adam.names))
        clip = self.settings["clip_norm"]
        self.adam.step(parameters, gradients, clip / norm if norm > clip else 1.0)
        for name, accumulator in self.accumulators.items():
            # A row that the step did not touch has a gradient of exactly 0 and stays as it is.
            accumulator += np.mean(gradients[name] ** 2, axis=1)
            rows = gradients[name] / np.sqrt(accumulator)[:, None]
            parameters[name] = parameters[name] - self.settings["embedding_learning_rate"] * rows
        return norm

    def write(self, state):
        state["main_adam"] = self.adam.state()
        if self.accumulators:
            state["adagrad"] = flat(self.accumulators)


class Learner:
    def __init__(self, settings, parameters):
        self.settings = settings
        self.parameters = {
            n: p.copy() for n, p in parameters.items() if not n.startswith("normalizer.")
        }
        self.normalizer = Normalizer(parameters, settings["dense"], settings["normalizer_views"])
        self.main = MainGroup(settings, self.parameters)
        prefixes = ("projection.lora_", "satisfaction.", "imputation.")
        names = [n for n in self.parameters if n.startswith(prefixes)]
        self.satisfaction = Adam(self.parameters, names, settings["lora_learning_rate"])
        self.twin_parameters = {
            n: p.copy()
            for n, p in self.parameters.items()
            if n.startswith(("embeddings.", "main.")) or n in BACKBONE
        }
        self.twin = MainGroup(settings, self.twin_parameters)
        self.reservoir = []  # [pair, uses]
        self.learned = False
        self.steps, self.arrived = 0, 0
        self.ew, self.price = 0.0, PRICE_START

    def draw(self):
        """All eligible pairs, or none when there are too few for a batch."""
        if self.settings["method"] == "behavior-only":
            return []
        eligible = [r for r in self.reservoir if r[1] < self.settings["reservoir_reuse"]]
        unused = sum(1 for r in self.reservoir if r[1] == 0)
        wanted = max(self.settings["reservoir_batch_pairs"], unused // 8)
        if len(eligible) < wanted:
            return []
        assert len(eligible) == wanted, "which pairs are drawn must not hang on chance"
        for record in eligible:
            record[1] += 1
        return [record[0] for record in eligible]

    def inputs(self, groups, drawn):
        """The step as arrays of a fixed shape, and the masks that say what is in it."""
        settings = self.settings
        live = [view for group in groups for view in group]
        of_pairs = [view for pair in drawn for view in pair]
        assert len(live) <= VIEWS and len(drawn) <= PAIRS
        filler = (live + of_pairs)[0]
        live = live + [filler] * (VIEWS - len(live))
        views = live + of_pairs + [filler] * (2 * (PAIRS - len(drawn)))
        shares = []
        for field in settings["fields"]:
            share = np.zeros((len(views), field["rows"]))
            for row, view in enumerate(views):
                for number, ids in view["sparse"]:
                    for id in ids if number == field["field"] else []:
                        share[row, id % field["rows"]] += 1.0 / len(ids)
            shares.append(share)
        within = np.zeros((VIEWS, VIEWS), bool)
        start = 0
        for group in groups:
            within[start : start + len(group), start : start + len(group)] = True
            start += len(group)
        self.rewards = np.array([view["reward"] for view in live])
        self.within = within
        direction = np.zeros(PAIRS)
        if settings["method"] == "same-path-reward":
            for row, (chosen, rejected) in enumerate(drawn):
                weight = settings["method_weight"]
                delta = (chosen["reward"] + weight) - (rejected["reward"] - weight)
                if abs(delta) > settings["reward_margin"]:
                    direction[row] = np.sign(delta)
        dense = self.normalizer.normalized(np.array([view["dense"] for view in views]))
        return {
            "shares": shares,
            "dense": dense,
            "inject": float(settings["inject_lora"] and settings["method"] in ("easq", "no-moe")),
            "lora_scale": settings["lora_alpha"] / settings["lora_rank"],
            "dpo_beta": settings["dpo_beta"],
            "dpo_offset": settings["dpo_offset"],
            "behavior": self.behavior(self.rewards),
            "live": np.triu(within, 1),
            "drawn": np.arange(PAIRS) < len(drawn),
            "direction": direction,
        }

    def behavior(self, rewards):
        ahead = rewards[:, None] - rewards[None, :]
        return self.within & (ahead > self.settings["reward_margin"])

    def evaluate(self, path, parameters, inputs):
        """Gradients of every loss by every parameter, and what `losses` gives besides."""
        form = "pairs" if self.settings["dpo"] == "pairs" and path != "twin" else "live"
        return compiled(path, form)(parameters, inputs)

    def look(self, groups, drawn):
        """Losses, gradients and scores of the present parameters; changes nothing but `learned`."""
        settings = self.settings
        method = settings["method"]
        self.learned |= len(drawn) > 0 and method in WITH_SATISFACTION
        count = sum(len(group) for group in groups)
        seen = {"views": count, "drawn": len(drawn)}
        if count + len(drawn) == 0:
            return {**seen, "losses": {"main": None, "satisfaction": None, "dpo": None}}
        inputs = self.inputs(groups, drawn)
        plain = inputs["behavior"]
        path = PATHS.get(method, "lora")
        if method == "imputation" and self.learned:
            _, (_, _, s, _, _) = self.evaluate(path, self.parameters, inputs)
            rewards = self.rewards + settings["method_weight"] * np.asarray(s)[:VIEWS]
            gaps = np.abs(np.abs(rewards[:, None] - rewards[None, :]) - settings["reward_margin"])
            assert np.min(gaps[self.within]) > 1e-3, "a pair hangs on rounding"
            inputs["behavior"] = self.behavior(rewards)
        gradients, (values, y, s, main_gates, satisfaction_gates) = self.evaluate(
            path, self.parameters, inputs
        )
        if settings["adapter"]:
            frozen = lambda name: name.startswith("embeddings.") or name in BACKBONE
            gradients = {n: np.zeros_like(g) if frozen(n) else g for n, g in gradients.items()}
        has_live = self.learned and bool(np.any(inputs["live"]))
        weighs = settings["price_control"] or settings["dpo_weight"] != 0.0
        has_dpo = {"live": has_live, "pairs": len(drawn) > 0, "off": False}[settings["dpo"]]
        present = {
            "main": bool(np.any(inputs["behavior"]) or np.any(inputs["direction"])),
            "satisfaction": len(drawn) > 0 and method in WITH_SATISFACTION,
            "dpo": has_dpo and weighs,
        }
        if method == "same-path-pairs":
            present["same_path"] = len(drawn) > 0
        index = {loss: LOSSES.index(loss) for loss in present}
        real = np.r_[0:count, VIEWS : VIEWS + 2 * len(drawn)]
        return {
            **seen,
            "inputs": inputs,
            "plain": plain,
            "scores": np.asarray(y)[real],
            "satisfaction_scores": np.asarray(s)[real],
            "gates": (np.asarray(main_gates)[real], np.asarray(satisfaction_gates)[real]),
            "dense": inputs["dense"][real],
            "losses": {n: float(values[index[n]]) if present[n] else None for n in present},
            "gradients": {
                loss: {n: np.asarray(g[index[loss]]) for n, g in gradients.items()}
                for loss in present
                if present[loss]
            },
        }

    def step(self, batch, with_pairs):
        settings = self.settings
        for pair in batch["pairs"] if with_pairs else []:
            self.reservoir.append([pair, 0])
            self.arrived += 1
        self.normalizer.observe([view for group in batch["groups"] for view in group])
        seen = self.look(batch["groups"], self.draw())
        if "inputs" in seen:
            self.learn(seen)
        self.steps += 1
        seen.update(price=self.price, ew=self.ew)
        return seen

    def learn(self, seen):
        settings, present = self.settings, seen["losses"]
        twin = {**seen["inputs"], "behavior": seen["plain"], "direction": np.zeros(PAIRS)}
        twin_gradients, (_, twin_y, _, _, _) = self.evaluate("twin", self.twin_parameters, twin)
        behavior_pairs = np.argwhere(seen["plain"])
        seen["plain_pairs"] = len(behavior_pairs)
        if len(behavior_pairs) > 0 and settings["price_control"]:
            self.update_price(seen, np.asarray(twin_y), behavior_pairs)
        weights = {
            "main": 1.0,
            "satisfaction": settings["satisfaction_weight"],
            "dpo": self.price if settings["price_control"] else settings["dpo_weight"],
            "same_path": settings["method_weight"],
        }
        used = [loss for loss in present if present[loss] is not None]
        total = {
            name: sum(weights[loss] * seen["gradients"][loss][name] for loss in used)
            for name in self.parameters
        }
        seen["norm"] = None
        reaches_main = set(used)
        if settings["method"] != "no-lora":
            reaches_main -= {"satisfaction"}
        if reaches_main:
            seen["norm"] = self.main.step(self.parameters, total)
        seen["clipped"] = bool(seen["norm"] is not None and seen["norm"] > settings["clip_norm"])
        if "satisfaction" in used:
            self.satisfaction.step(self.parameters, total)
        seen["twin_norm"] = None
        if len(behavior_pairs) > 0:
            gradients = {n: np.asarray(g[0]) for n, g in twin_gradients.items()}
            seen["twin_norm"] = self.twin.step(self.twin_parameters, gradients)

    def update_price(self, seen, twin_scores, pairs):
        budget = self.settings["behavior_budget_points"] / 100.0
        right = lambda y: sum(0.5 * (1.0 + np.sign(y[i] - y[j])) for i, j in pairs)
        d = float(right(twin_scores) - right(seen["scores"])) / len(pairs)
        seen["d"] = d
        seen["ties"] = [sum(y[i] == y[j] for i, j in pairs) for y in (seen["scores"], twin_scores)]
        self.ew += EW_RATE * (d - self.ew)
        enough = self.arrived >= self.settings["reservoir_batch_pairs"]
        if self.steps >= PRICE_WAIT and enough:
            seen["pull"] = (budget - self.ew) / budget
            change = LOG_PRICE_RATE * min(max(seen["pull"], -1.0), 1.0)
            low, high = (math.log(limit) for limit in PRICE_RANGE)
            self.price = math.exp(min(max(math.log(self.price) + change, low), high))

    def state(self, losses):
        state = {
            "parameters": flat(
                {
                    **self.parameters,
                    "normalizer.mean": self.normalizer.mean,
                    "normalizer.std": self.normalizer.std,
                }
            ),
            "satisfaction_adam": self.satisfaction.state(),
            "losses": losses,
        }
        self.main.write(state)
        state["twin"] = {"parameters": flat(self.twin_parameters)}
        self.twin.write(state["twin"])
        if self.settings["price_control"]:
            state["lambda2"], state["ew"] = self.price, self.ew
        return state


def flat(tensors):
    # Adding 0.0 turns -0.0 into 0.0.
    return {n: (np.asarray(t) + 0.0).reshape(-1).tolist() for n, t in tensors.items()}


# --- cases --------------------------------------------------------------------------------------

CASES = {}


def case(seed, after=(1, 2, 30), repeat_pairs=False, **changes):
    """Registers a case: the function gets (random, parameters), which it may change, and returns
    the batches and a function of the first look and of the steps that asserts what they show."""

    def register(build):
        CASES[build.__name__.replace("_", "-")] = build, seed, after, repeat_pairs, changes
        return build

    return register


def clipped(steps):
    """On how many steps the gradient was clipped, and on how many it was not."""
    flags = [step["clipped"] for step in steps if step["norm"] is not None]
    return flags.count(True), flags.count(False)


def count(steps, loss):
    """On how many steps the loss was there."""
    return sum(step["losses"].get(loss) is not None for step in steps)


@case(101, clip_norm=0.5)
def default(random, parameters):
    def shows(first, steps):
        over, under = clipped(steps)
        assert over >= 5 and under >= 5, (over, under)
        for gates in first["gates"]:
            assert np.any(gates == 0.0) and np.all(np.any(gates > 0.0, axis=1))
        assert all(count(steps, loss) == 30 for loss in ("main", "satisfaction", "dpo"))
        assert all(np.any(first["gradients"]["satisfaction"][n]) for n in parameters if "lora" in n)

    return some_batches(random), shows


@case(2)
def several_ids(random, parameters):
    # Mean over ids, an id twice, ids far beyond the rows, absent and empty fields, any order.
    sparse = [
        [[3, [7, 2, 1]], [11, [9]]],
        [[11, [1, 1, 2]], [3, [4]]],
        [[3, [2**53 - 1, 2**40 + 3]]],
        [[11, []], [3, [10]]],
        [],
        [[11, [5, 9, 13]]],
        [[3, [0, 5]], [11, [3, 2, 1, 0]]],
        [[99, [1]], [3, [6]]],
    ]
    batches = some_batches(random, ((4, 2), (4, 2)), (2, 0))
    views = [v for b in batches for group in b["groups"] for v in group]
    views += [v for pair in batches[0]["pairs"] for v in pair]
    for number, one in enumerate(views):
        one["sparse"] = sparse[number % len(sparse)]

    def shows(first, steps):
        user, item = first["inputs"]["shares"]
        assert np.any(user.sum(axis=1) == 0.0) and np.any(item.sum(axis=1) == 0.0)
        assert np.any((user > 0.0) & (user < 1.0)) and np.any(np.abs(item - 2.0 / 3.0) < 1e-9)

    return batches, shows


@case(3)
def dead_gates(random, parameters):
    for name in ("main", "satisfaction"):
        parameters[f"{name}.gate.bias"] = np.full_like(parameters[f"{name}.gate.bias"], -50.0)

    def shows(first, steps):
        for step in [first] + steps:
            assert not np.any(step["scores"]) and not np.any(step["satisfaction_scores"])
            assert not any(np.any(g) for by in step["gradients"].values() for g in by.values())
            assert all(abs(loss - math.log(2.0)) < 1e-15 for loss in step["losses"].values())

    return some_batches(random), shows


@case(1204, clip_norm=1e9, reward_margin=0.25, reservoir_batch_pairs=3)
def extreme_values(random, parameters):
    # Scores that a naive softplus overflows on; views and rewards that tie; a margin just met.
    parameters["normalizer.mean"], parameters["normalizer.std"] = np.zeros(3), np.ones(3)
    for name in ("main", "satisfaction"):
        parameters[f"{name}.gate.bias"] = 16.0 + parameters[f"{name}.gate.bias"]
        output = f"{name}.experts.output.weight"
        parameters[output] = (8.0 if name == "main" else 4.0) * parameters[output]
    huge = [view(random, r, (1e4 * np.array(s)).tolist()) for r, s in [
        (0.0, [1, -1, 1]), (1e6, [-1, 1, 1]), (-1e6, [1, 1, 1]), (0.0, [-1, -1, -1])]]
    same = dict(view(random, 1.0))
    ties = [same, {**same, "reward": 1.25}, {**same, "reward": 1.5}]
    # A pair that is neither saturated nor a tie, so that not all gradients are 0 or rounding.
    near = view(random)
    nearer = [number + 0.125 for number in near["dense"]]
    small = [view(random, 1.5), view(random, 1.5), view(random, 1.25)]
    batches = [
        {
            "groups": [huge, ties],
            "pairs": [[huge[0], huge[1]], [same, same], [near, {**near, "dense": nearer}]],
        },
        {"groups": [small, [huge[3], huge[2]], ties[:2]], "pairs": []},
    ]

    def shows(first, steps):
        scores, satisfaction = first["scores"], first["satisfaction_scores"]
        assert max(scores) - min(scores) > 800.0 and np.ptp(satisfaction) > 88.0, (
            np.ptp(scores), np.ptp(satisfaction))
        assert np.all(np.abs(first["dense"][:4]) == CLIP_DENSE)
        # Of the views that tie only 1.0 and 1.5 are a behaviour pair: 0.25 is not over the margin.
        assert first["inputs"]["behavior"][4:7, 4:7].sum() == 1 and scores[4] == scores[6]
        assert not np.any(steps[1]["inputs"]["behavior"][:3, :3])

    return batches, shows


@case(5)
def no_pairs(random, parameters):
    def shows(first, steps):
        assert count(steps, "main") == 30
        assert count(steps, "satisfaction") == count(steps, "dpo") == 0

    return some_batches(random, pairs=(0, 0, 0)), shows


@case(6, reservoir_batch_pairs=1)
def one_pair(random, parameters):
    def shows(first, steps):
        assert all(step["drawn"] == 1 for step in steps)

    return some_batches(random, pairs=(1, 0, 0)), shows


@case(7)
def no_behavior_pairs(random, parameters):
    batches = some_batches(random)
    for batch in batches:
        for number, one in enumerate(v for group in batch["groups"] for v in group):
            one["reward"] = 1.0 + 0.125 * (number % 2)

    def shows(first, steps):
        assert count(steps, "main") == 0 and count(steps, "dpo") == 30

    return batches, shows


@case(8, repeat_pairs=True, dpo="pairs", reservoir_reuse=1, dpo_weight=1.0)
def dpo_pairs(random, parameters):
    def shows(first, steps):
        assert [step["drawn"] for step in steps[:4]] == [2, 0, 2, 2]
        assert count(steps, "dpo") == count(steps, "satisfaction") == 20

    return some_batches(random, pairs=(2, 0, 2)), shows


@case(9, repeat_pairs=True, dpo="pairs", reservoir_reuse=1, dpo_beta=0.5, dpo_offset=0.0)
def dpo_pairs_as_printed(random, parameters):
    def shows(first, steps):
        assert all(np.min(step["scores"]) > 0.05 for step in steps)

    return some_batches(random, pairs=(2, 2, 2)), shows


@case(10, dpo="off")
def dpo_off(random, parameters):
    batches = some_batches(random)
    for one in [v for group in batches[1]["groups"] for v in group]:
        one["reward"] = 0.5

    def shows(first, steps):
        # On the steps without behaviour pairs only the satisfaction group is stepped.
        assert count(steps, "dpo") == 0 and count(steps, "satisfaction") == 30
        assert sum(step["norm"] is None for step in steps) == 10

    return batches, shows


@case(11, inject_lora=False)
def no_injection(random, parameters):
    def shows(first, steps):
        assert count(steps, "dpo") == 30

    return some_batches(random), shows


@case(12, normalizer_views=9)
def running_normalizer(random, parameters):
    batches = some_batches(random, ((3, 3), (4, 2), (2, 3, 2)))
    views = [v for b in batches for group in b["groups"] for v in group]
    for one in views[:9]:
        one["dense"][1] = 0.75
    views[9]["dense"][0] = 500.0
    views[14]["dense"][2] = -300.0

    def shows(first, steps):
        # Nine views: batch 0 has six, the views after the third of batch 1 are not observed.
        assert steps[0]["normalizer"][0] == 6 and steps[1]["normalizer"][0] == 9
        assert steps[29]["normalizer"][1:] == steps[1]["normalizer"][1:]
        assert steps[1]["normalizer"][2][1] == 1.0 and steps[1]["normalizer"][2][0] < 10.0
        assert np.max(steps[1]["dense"]) == CLIP_DENSE and np.min(steps[2]["dense"]) == -CLIP_DENSE
        # The same pairs, by the statistics of each step.
        assert np.any(steps[0]["dense"][-4:] != steps[1]["dense"][-4:])

    return batches, shows


@case(13, satisfaction_weight=0.375, dpo_weight=1.75, clip_norm=0.5)
def weights(random, parameters):
    def shows(first, steps):
        over, under = clipped(steps)
        assert over >= 1 and under >= 1, (over, under)

    return some_batches(random), shows


@case(14, dpo_weight=0.0, inject_lora=False)
def weight_zero(random, parameters):
    batches = some_batches(random)
    for one in [v for group in batches[1]["groups"] for v in group]:
        one["reward"] = 0.5

    def shows(first, steps):
        # The backbone is that of a run without answers: no steps by a loss of weight 0.
        assert sum(step["norm"] is None for step in steps) == 10

    return batches, shows


@case(15, reservoir_reuse=3)
def reuse_exhausted(random, parameters):
    def shows(first, steps):
        assert [step["drawn"] for step in steps] == [2, 2, 2] + [0] * 27
        assert count(steps, "dpo") == 30

    return some_batches(random), shows


@case(16, reservoir_batch_pairs=3)
def reservoir_fills(random, parameters):
    def shows(first, steps):
        assert [step["drawn"] for step in steps] == [0] + [3] * 29
        assert count(steps, "dpo") == 29

    return some_batches(random, pairs=(1, 2, 0)), shows


@case(17, repeat_pairs=True, dpo="pairs", reservoir_reuse=1)
def no_groups(random, parameters):
    def shows(first, steps):
        assert all(step["views"] == 0 and step["drawn"] == 2 for step in steps[1::3])
        assert count(steps, "main") == 20 and all(step["norm"] for step in steps)

    return some_batches(random, ((3, 2, 1), (), (1, 1, 4)), (2, 2, 2)), shows


@case(118, after=(1, 2, 30, 130), price_control=True, behavior_budget_points=1.5, learning_rate=0.01)
def price_control(random, parameters):
    # Gates that are dead for some views: their scores tie at 0.
    parameters["main.gate.bias"] = parameters["main.gate.bias"] - 1.0
    batches = some_batches(random)
    for one in [v for group in batches[2]["groups"] for v in group]:
        one["reward"] = 0.5

    def shows(first, steps):
        assert all(step["price"] == PRICE_START for step in steps[:PRICE_WAIT])
        assert steps[PRICE_WAIT]["price"] != PRICE_START
        ties = [step["ties"] for step in steps if "ties" in step]
        assert any(model != twin for model, twin in ties), "a tie of one of them counts"
        pulls = [step["pull"] for step in steps if "pull" in step]
        assert any(abs(pull) < 1.0 for pull in pulls) and len(set(pulls)) > 5, pulls
        # A batch without behaviour pairs leaves both as they are.
        for before, step in zip(steps, steps[1:]):
            if step["plain_pairs"] == 0:
                assert (step["price"], step["ew"]) == (before["price"], before["ew"])
                assert step["twin_norm"] is None and step["norm"] is not None

    return batches, shows


@case(19, after=(1, 2, 30, 130), price_control=True, reservoir_batch_pairs=3)
def price_waits_for_pairs(random, parameters):
    def shows(first, steps):
        assert all(step["price"] == PRICE_START and step["drawn"] == 0 for step in steps)

    return some_batches(random), shows


@case(220, adapter=True, clip_norm=0.5)
def adapter(random, parameters):
    def shows(first, steps):
        frozen = [n for n in first["gradients"]["main"] if n in BACKBONE or "embeddings" in n]
        assert len(frozen) == 4
        assert not any(np.any(g[n]) for g in first["gradients"].values() for n in frozen)
        over, under = clipped(steps)
        assert over >= 1 and under >= 1, (over, under)

    return some_batches(random), shows


@case(21, method="behavior-only", dpo="off")
def behavior_only(random, parameters):
    def shows(first, steps):
        assert all(step["drawn"] == 0 for step in steps) and count(steps, "main") == 30

    return some_batches(random), shows


@case(22, method="same-path-pairs", dpo="off", method_weight=1.5)
def same_path_pairs(random, parameters):
    batches = some_batches(random)
    for one in [v for group in batches[1]["groups"] for v in group]:
        one["reward"] = 0.5

    def shows(first, steps):
        assert count(steps, "same_path") == 30 and count(steps, "main") == 20
        gradients = first["gradients"]["same_path"]
        assert all(np.any(gradients[n]) for n in gradients if n.startswith(("emb", "projection.w")))

    return batches, shows


@case(23, method="same-path-reward", dpo="off", method_weight=0.5, reservoir_batch_pairs=3)
def same_path_reward(random, parameters):
    batches = some_batches(random, pairs=(3, 0, 0))
    for pair, rewards in zip(batches[0]["pairs"], [(1.0, 0.5), (0.125, 1.875), (0.5, 1.375)]):
        for one, reward in zip(pair, rewards):
            one["reward"] = reward

    def shows(first, steps):
        # One pair as answered, one that the logged rewards outweigh, one within the margin.
        assert first["inputs"]["direction"].tolist() == [1.0, -1.0, 0.0, 0.0]

    return batches, shows


@case(224, method="imputation", dpo="off", method_weight=0.75, reservoir_batch_pairs=2)
def imputation(random, parameters):
    def shows(first, steps):
        changed = [np.any(step["inputs"]["behavior"] != step["plain"]) for step in steps]
        # The first draw is on the second step; before it the rewards are the plain ones.
        assert not changed[0] and changed[1] and 5 <= sum(changed), changed
        assert [step["drawn"] for step in steps[:3]] == [0, 2, 2]

    return some_batches(random, pairs=(1, 1, 0)), shows


@case(25, method="no-lora", satisfaction_weight=0.75, clip_norm=0.5)
def no_lora(random, parameters):
    def shows(first, steps):
        over, under = clipped(steps)
        assert over >= 1 and under >= 1, (over, under)
        reached = first["gradients"]["satisfaction"]
        assert all(np.any(reached[n]) for n in reached if n.startswith(("emb", "projection")))
        assert not any(np.any(reached[n]) for n in reached if n.startswith("main"))
        for loss in ("main", "dpo"):
            by = first["gradients"][loss]
            assert not any(np.any(by[n]) for n in by if n.startswith("satisfaction"))

    return some_batches(random), shows


@case(26, method="no-moe", main_experts=1, satisfaction_experts=1)
def no_moe(random, parameters):
    def shows(first, steps):
        assert not any("gate" in name for name in parameters)
        assert count(steps, "dpo") == 30

    return some_batches(random), shows


# --- files --------------------------------------------------------------------------------------


def assert_isolated(settings, first):
    """The table of exact zeros that the model promises."""
    if settings["method"] not in ("easq", "no-moe"):
        return
    path = lambda n: "satisfaction" if n.startswith(("satisfaction", "projection.lora")) else "main"
    for loss, gradients in first["gradients"].items():
        own = "satisfaction" if loss == "satisfaction" else "main"
        assert not any(np.any(g) for n, g in gradients.items() if path(n) != own), loss


def calculate(name):
    build, seed, after, repeat_pairs, changes = CASES[name]
    settings = {**SETTINGS, **changes}
    random = np.random.default_rng(seed)
    parameters = initial_parameters(settings, random)
    batches, shows = build(random, parameters)
    for number in [v for p in parameters.values() for v in p.flat]:
        assert float(np.float32(number)) == number, number

    at_first = Learner(settings, parameters)
    at_first.normalizer.observe([v for group in batches[0]["groups"] for v in group])
    drawn = [] if settings["method"] == "behavior-only" else batches[0]["pairs"]
    first = at_first.look(batches[0]["groups"], drawn)
    assert_isolated(settings, first)

    learner, steps, states = Learner(settings, parameters), [], {}
    for t in range(max(after)):
        seen = learner.step(batches[t % len(batches)], repeat_pairs or t < len(batches))
        normalizer = learner.normalizer
        seen["normalizer"] = normalizer.views, normalizer.mean.tolist(), normalizer.std.tolist()
        steps.append(seen)
        if t + 1 in after:
            states[str(t + 1)] = learner.state(seen["losses"])
    shows(first, steps)
    result = {
        "settings": settings,
        "parameters": {
            n: {"shape": list(p.shape), "values": flat({n: p})[n]} for n, p in parameters.items()
        },
        "batches": batches,
        "first": {
            "scores": first["scores"].tolist(),
            "satisfaction_scores": first["satisfaction_scores"].tolist(),
            "losses": first["losses"],
            "gradients": {loss: flat(by) for loss, by in first["gradients"].items()},
        },
        "after": states,
    }
    if repeat_pairs:
        result["repeat_pairs"] = True
    return result


def main(directory, names):
    os.makedirs(directory, exist_ok=True)
    for name in names or CASES:
        text = json.dumps(calculate(name), separators=(",", ":"), allow_nan=False)
        with open(os.path.join(directory, f"{name}.json"), "w", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
