"""An independent program for the model's mathematics, in plain NumPy and 64 bits.

Writes `forward.json` beside itself: parameters, samples, and what must come out of them. Gradients
are complex-step derivatives of the losses as they are written in the formulas, with every
stop-gradient a constant; they are exact to rounding. Run `python3 forward.py` after a change of
the formulas; the test is `tests/golden.rs`.
"""
import json
import pathlib

import numpy as np

D, HIDDEN, EXPERT, MAIN_EXPERTS, SATISFACTION_EXPERTS, RANK, ALPHA = 3, 4, 3, 3, 2, 2, 2.0
TABLES = [("user", 1, 5, 2), ("topic", 7, 4, 3)]          # name, field, rows, dim
K = D + sum(dim for *_, dim in TABLES)
BETA, OFFSET, MARGIN, SATISFACTION_WEIGHT, DPO_WEIGHT = 10.0, 10.0, 0.2, 1.0, 0.5
LEARNING_RATE, EMBEDDING_RATE, CLIP = 1e-3, 0.05, 2.3


def head_shapes(head, experts):
    return {
        f"{head}.gate.weight": (experts, HIDDEN), f"{head}.gate.bias": (experts,),
        f"{head}.experts.hidden.weight": (experts, EXPERT, HIDDEN),
        f"{head}.experts.hidden.bias": (experts, EXPERT),
        f"{head}.experts.output.weight": (experts, EXPERT), f"{head}.experts.output.bias": (experts,),
    }


BACKBONE = {"projection.weight": (HIDDEN, K), "projection.bias": (HIDDEN,)}
LORA = {"projection.lora_A.weight": (RANK, K), "projection.lora_B.weight": (HIDDEN, RANK)}
EMBEDDINGS = {f"embeddings.{name}.weight": (rows, dim) for name, _, rows, dim in TABLES}
MAIN = {**BACKBONE, **head_shapes("main", MAIN_EXPERTS)}
SATISFACTION = {**LORA, **head_shapes("satisfaction", SATISFACTION_EXPERTS)}


def maximum0(z):
    return np.where(np.real(z) > 0, z, 0)


def softplus(z):
    magnitude = np.where(np.real(z) > 0, z, -z)
    return maximum0(z) + np.log1p(np.exp(-magnitude))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def stop(z):
    """The value of z as a constant."""
    return np.real(z)


def inputs(p, views):
    rows = []
    for view in views:
        parts = []
        for name, field, count, dim in TABLES:
            ids = [i % count for f, ids in view["sparse"] if f == field for i in ids]
            table = p[f"embeddings.{name}.weight"]
            parts.append(table[ids].mean(0) if ids else np.zeros(dim))
        dense = (np.array(view["dense"]) - stop(p["normalizer.mean"])) / stop(p["normalizer.std"])
        rows.append(np.concatenate([*parts, np.clip(dense, -5, 5)]))
    return np.array(rows)


def head(p, name, u):
    a = softplus(u)
    g = maximum0(a @ p[f"{name}.gate.weight"].T + p[f"{name}.gate.bias"])
    out = 0
    for k in range(g.shape[1]):
        hidden = softplus(a @ p[f"{name}.experts.hidden.weight"][k].T + p[f"{name}.experts.hidden.bias"][k])
        expert = softplus(hidden @ p[f"{name}.experts.output.weight"][k] + p[f"{name}.experts.output.bias"][k])
        out = out + g[:, k] * expert
    return out


def forward(p, views):
    x = inputs(p, views)
    h = x @ p["projection.weight"].T + p["projection.bias"]
    h_lora = ALPHA / RANK * stop(x) @ p["projection.lora_A.weight"].T @ p["projection.lora_B.weight"].T
    return head(p, "main", h + stop(h_lora)), head(p, "satisfaction", stop(h) + h_lora)


def group_pairs(groups):
    first = 0
    for group in groups:
        for i in range(len(group)):
            for j in range(i + 1, len(group)):
                yield first + i, first + j
        first += len(group)


def loss_main(p, groups, _pairs):
    views = [view for group in groups for view in group]
    y, _ = forward(p, views)
    terms = []
    for i, j in group_pairs(groups):
        difference = views[i]["reward"] - views[j]["reward"]
        if abs(difference) > MARGIN:
            better, worse = (i, j) if difference > 0 else (j, i)
            terms.append(softplus(-(y[better] - y[worse])))
    return sum(terms) / len(terms)


def loss_satisfaction(p, _groups, pairs):
    _, chosen = forward(p, [pair[0] for pair in pairs])
    _, rejected = forward(p, [pair[1] for pair in pairs])
    return softplus(-(chosen - rejected)).mean()


def loss_dpo_pairs(p, _groups, pairs):
    y_chosen, s_chosen = forward(p, [pair[0] for pair in pairs])
    y_rejected, s_rejected = forward(p, [pair[1] for pair in pairs])
    reference = stop(np.log((s_chosen + OFFSET) / (s_rejected + OFFSET)))
    margin = np.log((y_chosen + OFFSET) / (y_rejected + OFFSET)) - reference
    return softplus(-BETA * margin).mean()


def loss_dpo_live(p, groups, _pairs):
    y, s = forward(p, [view for group in groups for view in group])
    terms = []
    for i, j in group_pairs(groups):
        label = stop(sigmoid(s[i] - s[j]))
        terms.append(label * softplus(-(y[i] - y[j])) + (1 - label) * softplus(y[i] - y[j]))
    return sum(terms) / len(terms)


LOSSES = {"main": loss_main, "satisfaction": loss_satisfaction, "dpo_pairs": loss_dpo_pairs, "dpo_live": loss_dpo_live}


def gradient(loss, p, groups, pairs):
    """By all parameters, in complex steps."""
    step, result = 1e-30, {}
    for name in {**EMBEDDINGS, **MAIN, **SATISFACTION}:
        flat = np.zeros(p[name].size)
        for i in range(flat.size):
            moved = {**p, name: p[name].astype(complex)}
            moved[name].reshape(-1)[i] += 1j * step
            flat[i] = np.imag(loss(moved, groups, pairs)) / step
        result[name] = flat.reshape(p[name].shape)
    return result


def combine(*weighted):
    return {name: sum(weight * g[name] for weight, g in weighted) for name in weighted[0][1]}


def adam(p, gradients, names, state, clip):
    """One step of Adam on `names`, in place."""
    norm = np.sqrt(sum((gradients[name] ** 2).sum() for name in names))
    scale = min(1.0, clip / norm)
    state["steps"] += 1
    for name in names:
        g = scale * gradients[name]
        m, v = state.get(name, (0.0, 0.0))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        state[name] = m, v
        m_hat, v_hat = m / (1 - 0.9 ** state["steps"]), v / (1 - 0.999 ** state["steps"])
        p[name] = p[name] - LEARNING_RATE * m_hat / (np.sqrt(v_hat) + 1e-8)
    return norm


def adagrad(p, gradients, accumulators):
    """One step of row-wise Adagrad on the embeddings, in place."""
    for name in EMBEDDINGS:
        accumulators[name] = accumulators.get(name, 0.1) + (gradients[name] ** 2).mean(1, keepdims=True)
        p[name] = p[name] - EMBEDDING_RATE * gradients[name] / np.sqrt(accumulators[name])


def train(p, groups, pairs, form, steps):
    """The parameters after some steps on the same samples. In the pairs form a pair is learned once."""
    p, main, satisfaction, accumulators = dict(p), {"steps": 0}, {"steps": 0}, {}
    norms = []
    for step in range(steps):
        terms = [(1.0, gradient(loss_main, p, groups, pairs))]
        drawn = form == "live" or step == 0
        if drawn:
            terms.append((DPO_WEIGHT, gradient(LOSSES[f"dpo_{form}"], p, groups, pairs)))
            alignment = combine((SATISFACTION_WEIGHT, gradient(loss_satisfaction, p, groups, pairs)))
        total = combine(*terms)
        norms.append(adam(p, total, MAIN, main, CLIP))
        adagrad(p, total, accumulators)
        if drawn:
            adam(p, alignment, SATISFACTION, satisfaction, np.inf)
    assert any(norm > CLIP for norm in norms) and any(norm < CLIP for norm in norms), norms
    return {name: p[name] for name in {**EMBEDDINGS, **MAIN, **SATISFACTION}}


def make():
    rng = np.random.default_rng(7)
    p = {name: 0.6 * rng.normal(size=shape) for name, shape in {**EMBEDDINGS, **MAIN, **SATISFACTION}.items()}
    for name in ("main", "satisfaction"):
        p[f"{name}.gate.bias"] += 1.0
    p["normalizer.mean"], p["normalizer.std"] = rng.normal(size=D), np.exp(0.3 * rng.normal(size=D))

    def view():
        users = [int(i) for i in rng.integers(2**40, size=rng.integers(1, 4))]
        sparse = [[1, users]] + ([[7, [int(rng.integers(100))]]] if rng.random() < 0.7 else [])
        # Logged in single precision; one feature in eight lies beyond the clip.
        dense = np.where(rng.random(D) < 0.12, 40.0, 1.0) * rng.normal(size=D)
        return {"dense": [float(np.float32(x)) for x in dense], "sparse": sparse,
                "reward": float(np.float32(rng.normal()))}

    groups = [[view() for _ in range(n)] for n in (4, 2, 5)]
    pairs = [[view(), view()] for _ in range(3)]
    everything = [view for group in groups for view in group] + [view for pair in pairs for view in pair]
    y, s = forward(p, everything)
    gradients = {name: gradient(loss, p, groups, pairs) for name, loss in LOSSES.items()}
    trained = {form: train(p, groups, pairs, form, 3) for form in ("live", "pairs")}
    tensors = lambda d: {name: {"shape": list(a.shape), "values": a.reshape(-1).tolist()} for name, a in d.items()}
    return {
        "parameters": tensors(p), "groups": groups, "pairs": pairs,
        "score": y.tolist(), "satisfaction": s.tolist(),
        "losses": {name: float(loss(p, groups, pairs)) for name, loss in LOSSES.items()},
        "gradients": {name: tensors(g) for name, g in gradients.items()},
        "after_three_steps": {form: tensors(values) for form, values in trained.items()},
    }


if __name__ == "__main__":
    path = pathlib.Path(__file__).with_name("forward.json")
    path.write_text(json.dumps(make(), indent=None, separators=(",", ":")) + "\n")
