"""Exploration of tiny MNIST networks on held-out training images: many lanes (configuration x fold x seed) trained at
once. Own code: plain JAX, no jaxdrill. A group of lanes shares plan (channels, padding), batch size, optimiser kind;
everything else is per lane. Arrays of the network are [rows, channels, columns, batch] per lane.

The test images are never read: only train-images and train-labels are opened.
"""
import gzip, math, re
from functools import partial
import numpy as np
import jax, jax.numpy as jnp
from jax import lax

MEAN, STD, EPS = 0.1307, 0.3081, 1e-5
K_EMA = 3
GRID = 6
KEYS_PER_IMAGE = 12


# ------------------------------------------------------------------------------------------------ plans and parameters
def parse(plan):
    """'8v 12v P 14*3 14v*4' -> layers. First: full 3x3 convolution of one channel; the others separable; then average
    of what is left and a 1x1 convolution to 10. Suffix r: residual (input, cropped, added after the batch norm)."""
    out = []
    for word in plan.split():
        m = re.fullmatch(r"P|(\d+)(v?)(r?)(?:\*(\d+))?", word)
        assert m, word
        if word == "P":
            out.append(("P",))
            continue
        for _ in range(int(m[4] or 1)):
            out.append(("C", int(m[1]), 0 if m[2] else 1, bool(m[3])))
    return out


def layout(plan):
    """Names, shapes and offsets of the flat parameter vector; the macs."""
    layers, shapes, side, channels, n, macs = parse(plan), [], 28, 1, 0, 0
    stats = []
    for layer in layers:
        if layer[0] == "P":
            side //= 2
            continue
        _, c, pad, _ = layer
        out = side + 2 * pad - 2
        if n == 0:
            shapes += [("dw0", (9, c))]
            macs += out * out * 9 * c
        else:
            shapes += [(f"pw{n}", (channels, c)), (f"dw{n}", (9, c))]
            macs += out * out * c * (channels + 9)  # as the package counts: both kernels at the output's positions
        shapes += [(f"scale{n}", (c,)), (f"bias{n}", (c,))]
        stats += [c]
        side, channels, n = out, c, n + 1
    shapes += [("head", (channels, 10)), ("headbias", (10,))]
    macs += channels * 10
    offsets, total = {}, 0
    for name, shape in shapes:
        offsets[name] = (total, shape)
        total += math.prod(shape)
    return dict(layers=layers, offsets=offsets, total=total, stats=stats, macs=macs, side=side, n=n)


def unflatten(lay, p):
    return {k: lax.slice(p, (o,), (o + math.prod(s),)).reshape(s) for k, (o, s) in lay["offsets"].items()}


def flatten(lay, tree):
    return jnp.concatenate([tree[k].reshape(-1) for k in lay["offsets"]])


# ------------------------------------------------------------------------------------------------ depthwise, relu, stats
def taps(y, pad):
    if pad:
        y = jnp.pad(y, ((pad, pad), (0, 0), (pad, pad), (0, 0)))
    h, w = y.shape[0] - 2, y.shape[2] - 2
    return [y[i:i + h, :, j:j + w] for i in range(3) for j in range(3)]


def ch(a):
    return a[None, :, None, None]


def rowsums(arrays):
    """Sums of n arrays [H, C, W, B] over W and B in one variadic reduction, then over H: [n, C]."""
    zero = np.float32(0)
    sums = lax.reduce(tuple(arrays), (zero,) * len(arrays),
                      lambda p, q: tuple(a + b for a, b in zip(p, q)), (2, 3))
    return jnp.stack(sums).sum(1)  # [len(arrays), C]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def dwrelu(y, c, k, pad, first, barrier):
    return _dw_fwd(y, c, k, pad, first, barrier)[0]


def _dw_fwd(y, c, k, pad, first, barrier):
    """relu(depthwise(y + c)), its mean and mean square per channel. y [H, I, W, B] (I = C, or 1 if first)."""
    views = taps(y + ch(c) if pad else y, pad)
    z = sum(v * ch(k[t]) for t, v in enumerate(views))
    if not pad and not first:
        z = z + ch(c * k.sum(0))
    r = jax.nn.relu(z)
    if barrier:
        r = lax.optimization_barrier(r)
    n = r.size // r.shape[1]
    m, s = rowsums((r, r * r))
    return (r, m / n, s / n), (y, c, k, r)


def _dw_bwd(pad, first, barrier, res, grads):
    y, c, k, r = res
    dr, dm, ds = grads
    n = r.size // r.shape[1]
    dz = jnp.where(r > 0, dr + ch(dm / n) + (2 / n) * r * ch(ds), 0)
    if barrier:
        dz = lax.optimization_barrier(dz)
    if first:
        views = taps(jnp.broadcast_to(y, (y.shape[0], k.shape[1], *y.shape[2:])), pad)
        dk = rowsums([v * dz for v in views])
        return jnp.zeros_like(y), jnp.zeros_like(c), dk
    dyc = sum(v * ch(k[8 - t]) for t, v in enumerate(taps(dz, 2 - pad)))
    if pad:
        sums = rowsums([v * dz for v in taps(y + ch(c), pad)])
        dc = rowsums([dyc])[0]
        dk = sums
    else:
        sums = rowsums([v * dz for v in taps(y, pad)] + [dz])
        total = sums[9]
        dk = sums[:9] + c * total
        dc = k.sum(0) * total
    return dyc, dc, dk


dwrelu.defvjp(_dw_fwd, _dw_bwd)


def mix(w, r, prec):
    """w [O, I], r [H, I, W, B] -> [H, O, W, B]"""
    h, i, ww, b = r.shape
    wb = lax.optimization_barrier(jnp.broadcast_to(w, (h, *w.shape)))
    y = lax.dot_general(wb, r.reshape(h, i, ww * b), (((2,), (1,)), ((0,), (0,))), precision=prec)
    return y.reshape(h, w.shape[0], ww, b)


def maxpool(r):
    h, c, w, b = r.shape
    r = r[: h // 2 * 2, :, : w // 2 * 2].reshape(h // 2, 2, c, w // 2, 2, b)
    return jnp.maximum(jnp.maximum(r[:, 0, :, :, 0], r[:, 0, :, :, 1]), jnp.maximum(r[:, 1, :, :, 0], r[:, 1, :, :, 1]))


def forward(lay, p, x, running, prec, barrier, scaled):
    """Logits [B, 10] of x [28, 28, B], and the list of (mean, var) used. running: None for the batch's own."""
    r, a, b, n, used = x[:, None], None, None, 0, []
    for at, layer in enumerate(lay["layers"]):
        if layer[0] == "P":
            r = maxpool(r)
            continue
        _, c, pad, residual = layer
        if n == 0:
            y, const = r, jnp.zeros((c,))
        else:
            w = p[f"pw{n}"].T  # [O, I]
            y, const = mix(w * a, r, prec), (w * b).sum(1)
        before = (r, a, b)
        r, m, s = dwrelu(y, const, p[f"dw{n}"], pad, n == 0, barrier)
        v = jnp.maximum(s - m * m, 0)
        if running is not None:
            m, v = running[n]
        used.append((m, v))
        a = p[f"scale{n}"] * lax.rsqrt(v + EPS)
        b = p[f"bias{n}"] - m * a
        follows_pool = lay["layers"][at + 1][0] == "P" if at + 1 < len(lay["layers"]) else False
        if residual:
            old = before[0] * ch(before[1]) + ch(before[2])
            if not pad:
                old = old[1:-1, :, 1:-1]
            r = r * ch(a) + ch(b) + old
            a, b = jnp.ones_like(a), jnp.zeros_like(b)
        elif scaled and follows_pool:
            r = r * ch(a) + ch(b)
            a, b = jnp.ones_like(a), jnp.zeros_like(b)
        n += 1
    g = r.mean((0, 2)) * a[:, None] + b[:, None]
    logits = lax.dot_general(p["head"], g, (((0,), (0,)), ((), ())), precision=lax.Precision.HIGHEST).T
    return logits + p["headbias"], used


# ------------------------------------------------------------------------------------------------ data
def load(folder):
    """Training images and labels only."""
    x = np.frombuffer(gzip.open(f"{folder}/train-images-idx3-ubyte.gz").read(), np.uint8, offset=16).reshape(-1, 28, 28)
    y = np.frombuffer(gzip.open(f"{folder}/train-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)
    return x, y


def words(x):
    """The four pixels of each square as one uint32: [N, 784]."""
    wide = np.pad(x, ((0, 0), (0, 1), (0, 1)), mode="edge").astype(np.uint32)
    w = wide[:, :-1, :-1] | wide[:, :-1, 1:] << 8 | wide[:, 1:, :-1] << 16 | wide[:, 1:, 1:] << 24
    return w.reshape(len(x), 784)


def basis():
    """[28, GRID]: Gaussian bumps, rows of norm 1, so that a displacement has the variance of its coefficients."""
    centre = np.arange(GRID) * 27 / (GRID - 1)
    m = np.exp(-((np.arange(28)[:, None] - centre) ** 2) / (2 * 4.0 ** 2))
    return (m / np.sqrt((m ** 2).sum(1, keepdims=True))).astype(np.float32)


def augment(data, idx, key, h, strength, elastic):
    """Batch of images by indices idx[B], float32[28, 28, B], normalised. `h`: the lane's numbers."""
    batch = idx.shape[0]
    u = jax.random.uniform(key, (KEYS_PER_IMAGE + (2 * GRID * GRID if elastic else 0), batch), jnp.float32, -1, 1)
    angle = jnp.deg2rad(h["rot"] * strength) * u[0]
    scale = 1 + h["scale"] * strength * u[1]
    dy, dx = h["shift"] * strength * u[2], h["shift"] * strength * u[3]
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    off = jnp.arange(28, dtype=jnp.float32) - 13.5
    y, x = off[:, None, None] - dy, off[None, :, None] - dx
    row, col = sin * x + cos * y, cos * x - sin * y
    if elastic:
        stretch = 1 + h["aniso"] * strength * u[4]
        row, col = row * stretch, col / stretch
        col = col + h["shear"] * strength * u[5] * row
        noise = u[KEYS_PER_IMAGE:].reshape(2, GRID, GRID, batch) * (3 ** 0.5 * h["elastic"] * strength)
        m = jnp.asarray(basis())
        d = jnp.einsum("pk,aklb,ql->apqb", m, noise, m, precision="highest")
        row, col = row + d[0], col + d[1]
    row, col = row + 13.5, col + 13.5
    inside = (col >= -0.5) & (col < 27.5) & (row >= -0.5) & (row < 27.5)
    row, col = jnp.clip(row, 0, 27), jnp.clip(col, 0, 27)
    top, left = jnp.floor(row), jnp.floor(col)
    source = (top * 28 + left).astype(jnp.int32)
    word = data[idx[None, None, :], source]
    c = [(word >> s & 0xFF).astype(jnp.float32) for s in (0, 8, 16, 24)]
    down, right = row - top, col - left
    upper, lower = c[0] + right * (c[1] - c[0]), c[2] + right * (c[3] - c[2])
    img = jnp.where(inside, upper + down * (lower - upper), 0)
    if elastic:
        size = h["cut"] * strength / 2  # half side of a square set to 0
        cy, cx = 13.5 * u[6], 13.5 * u[7]
        hole = (jnp.abs(off[:, None, None] - cy) < size) & (jnp.abs(off[None, :, None] - cx) < size)
        img = jnp.where(hole, 0, img)
    return (img / 255 - MEAN) / STD


def clean(data, idx):
    word = data[idx]  # [B, 784]
    img = (word & 0xFF).astype(jnp.float32).T.reshape(28, 28, -1)
    return (img / 255 - MEAN) / STD


# ------------------------------------------------------------------------------------------------ optimiser
def matrix_names(lay):
    return [f"pw{n}" for n in range(1, lay["n"])]


def newton_schulz(x, steps=5):
    """x [L, R, C] zero-padded matrices."""
    x = x / (jnp.sqrt((x * x).sum((1, 2), keepdims=True)) + 1e-8)
    hi = lax.Precision.HIGHEST
    for _ in range(steps):
        a = lax.dot_general(x, x, (((2,), (2,)), ((0,), (0,))), precision=hi)
        b = -4.7750 * a + 2.0315 * lax.dot_general(a, a, (((2,), (1,)), ((0,), (0,))), precision=hi)
        x = 3.4445 * x + lax.dot_general(b, x, (((2,), (1,)), ((0,), (0,))), precision=hi)
    return x


def muon_directions(lay, g, dwtoo):
    """Flat vector of orthogonalised matrices (zero elsewhere), with sqrt(max(1, out / in))."""
    tree = unflatten(lay, g)
    names = matrix_names(lay) + ([f"dw{n}" for n in range(lay["n"])] if dwtoo else [])
    size = max(max(tree[n].shape) for n in names)
    stack = jnp.stack([jnp.pad(tree[n], ((0, size - tree[n].shape[0]), (0, size - tree[n].shape[1]))) for n in names])
    done = newton_schulz(stack)
    out = {k: jnp.zeros_like(v) for k, v in tree.items()}
    for i, n in enumerate(names):
        rows, cols = tree[n].shape
        out[n] = done[i, :rows, :cols] * max(1, cols / rows) ** 0.5
    return flatten(lay, out)


def flags(lay, dwtoo):
    tree = {k: np.full(s, k.startswith("pw") or (dwtoo and k.startswith("dw")), np.float32)
            for k, (o, s) in lay["offsets"].items()}
    return np.concatenate([tree[k].reshape(-1) for k in lay["offsets"]])


def schedule(h, step):
    """Triangle: as the package's; the fall to the power `power`."""
    total, peak = h["total"], jnp.maximum(1, jnp.round(h["warmup"] * h["total"]))
    fall = jnp.maximum(total - step, 0) / jnp.maximum(1, total - peak)
    return jnp.minimum((step + 1) / peak, jnp.minimum(fall, 1) ** h["power"])


class Group:
    """The compiled functions of one plan, batch size and optimiser kind, for a number of lanes."""

    def __init__(self, plan, batch, optimiser, lanes, prec=None, barrier=True, scaled=False, elastic=False,
                 eval_batch=500, recal=4000, teacher=None):
        self.lay, self.plan, self.batch, self.optimiser, self.lanes = layout(plan), plan, batch, optimiser, lanes
        self.prec, self.barrier, self.scaled, self.elastic = prec, barrier, scaled, elastic
        self.eval_batch, self.recal, self.teacher = eval_batch, recal, teacher
        self.q = 2 * sum(self.lay["stats"])
        self.tlay = layout(teacher) if teacher else None

    def split_stats(self, q):
        out, at = [], 0
        for c in self.lay["stats"]:
            out.append((lax.slice(q, (at,), (at + c,)), lax.slice(q, (at + c,), (at + 2 * c,))))
            at += 2 * c
        return out

    def loss(self, tree, x, labels, h, soft=None):
        logits, used = forward(self.lay, tree, x, None, self.prec, self.barrier, self.scaled)
        logp = jax.nn.log_softmax(logits)
        hot = jax.nn.one_hot(labels, 10)
        target = hot * (1 - h["smooth"]) + h["smooth"] / 10
        value = -(target * logp).sum(-1).mean()
        if soft is not None:  # distillation: teacher's logits [B, 10], temperature T
            t = h["temper"]
            lp, q = jax.nn.log_softmax(logits / t), jax.nn.softmax(soft / t)
            value = (1 - h["distill"]) * value + h["distill"] * t * t * -(q * lp).sum(-1).mean()
        stats = jnp.concatenate([jnp.concatenate(mv) for mv in used])
        return value, stats

    def step(self, state, step, data, labels, order, key, h, v, at, tp=None):
        """One training step of one lane."""
        idx = lax.dynamic_slice(order, (at * self.batch,), (self.batch,))
        progress = step / h["total"]
        strength = h["aug0"] + (h["aug1"] - h["aug0"]) * progress
        x = augment(data, idx, jax.random.fold_in(key, step.astype(jnp.int32)), h, strength, self.elastic)
        tree = unflatten(self.lay, state["p"])
        soft = None
        if self.tlay is not None:
            soft = self.teach(tp, x)
        (value, stats), g = jax.value_and_grad(self.loss, has_aux=True)(tree, x, labels[idx].astype(jnp.int32), h, soft)
        g = flatten(self.lay, g)
        # shared parameters: the sum of their gradients
        g = jnp.zeros_like(g).at[v["tie"]].add(g)[v["tie"]]
        g = g * (v["mul"] > 0) + h["wd"] * v["decays"] * state["p"]
        lr = schedule(h, step)
        new = dict(state)
        if self.optimiser == "sgd":
            m = h["mom"] * state["m"] + g
            update = h["lr"] * v["mul"] * (g + h["mom"] * m)
        else:
            ismat = flags(self.lay, self.optimiser.endswith("dw"))
            ismat = ismat * h["muon"]  # per lane
            mu = jnp.where(ismat > 0, h["mmom"], h["mom"])
            m = mu * state["m"] + g
            d = muon_directions(self.lay, g + mu * m, self.optimiser.endswith("dw"))
            rest = h["lr"] * (g + mu * m)  # Nesterov, as optax.sgd
            update = v["mul"] * jnp.where(ismat > 0, h["mlr"] * d, rest)
            # with a fixed diagonal or the like the masked entries stay (mul 0)
        new["m"] = m
        p = state["p"] - lr * update
        q = h["bnmom"] * state["q"] + (1 - h["bnmom"]) * stats
        both = jnp.concatenate([p, q])
        decay = jnp.minimum(h["decay"], (1 + step) / (10 + step))[:, None]  # [K, 1]
        new.update(p=p, q=q, e=decay * state["e"] + (1 - decay) * both[None])
        return new, value

    def teach(self, tp, x):
        lay, P = self.tlay, self.tlay["total"]
        running, at = [], P
        for c in lay["stats"]:
            running.append((lax.slice(tp, (at,), (at + c,)), lax.slice(tp, (at + c,), (at + 2 * c,))))
            at += 2 * c
        tree = unflatten(lay, lax.slice(tp, (0,), (P,)))
        return lax.stop_gradient(forward(lay, tree, x, running, self.prec, self.barrier, self.scaled)[0])

    def epoch(self, state, first, count, data, labels, kept, fold, keys, epoch, h, v, tp=None):
        """`count` steps of all lanes from step `first` on, after shuffling for this epoch."""
        def shuffle(key, f):
            return kept[f][jax.random.permutation(jax.random.fold_in(key, epoch), kept.shape[1])].astype(jnp.int32)
        orders = jax.vmap(shuffle)(keys[:, 0], fold)
        order_keys = keys[:, 1]
        if tp is not None:
            tp = tp[fold]

        def body(i, carry):
            state, total = carry
            fn = lambda s, o, k, hh, vv, t: self.step(s, (first + i).astype(jnp.float32), data, labels, o, k, hh, vv, i, t)
            new, value = jax.vmap(fn, in_axes=(0, 0, 0, 0, 0, None if tp is None else 0))(
                state, orders, order_keys, h, v, tp)
            return new, total + value
        state, total = lax.fori_loop(0, count, body, (state, jnp.zeros((self.lanes,))))
        return state, total / count

    def evaluate(self, state, data, labels, kept, held, fold, h):
        """Per lane and average k: correct and loss with the averaged statistics; correct with statistics of clean
        training images; the predictions of average 0."""
        P = self.lay["total"]

        def one(e, f):
            idx = held[f].astype(jnp.int32).reshape(-1, self.eval_batch)
            some = kept[f][:: kept.shape[1] // self.recal][: self.recal].astype(jnp.int32).reshape(-1, self.eval_batch)

            def each(vec):
                tree = unflatten(self.lay, vec[:P])
                run = self.split_stats(vec[P:])
                own = lax.map(lambda i: forward(self.lay, tree, clean(data, i), None, self.prec, self.barrier,
                                                self.scaled)[1], some)
                own = jax.tree.map(lambda a: a.mean(0), own)

                def part(i):
                    x, y = clean(data, i), labels[i].astype(jnp.int32)
                    logits = forward(self.lay, tree, x, run, self.prec, self.barrier, self.scaled)[0]
                    other = forward(self.lay, tree, x, own, self.prec, self.barrier, self.scaled)[0]
                    pred = logits.argmax(-1)
                    loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).sum()
                    return (pred == y).sum(), loss, (other.argmax(-1) == y).sum(), pred.astype(jnp.uint8)
                a, l, o, pred = lax.map(part, idx)
                return a.sum(), l.sum(), o.sum(), pred.reshape(-1)
            return lax.map(each, e)
        return jax.vmap(one)(state["e"], fold)

    def init_state(self, p0):
        q0 = np.concatenate([np.concatenate([np.zeros(c), np.ones(c)]) for c in self.lay["stats"]]).astype(np.float32)
        q = np.broadcast_to(q0, (self.lanes, self.q))
        both = np.concatenate([p0, q], 1)
        e = np.broadcast_to(both[:, None], (self.lanes, K_EMA, both.shape[1]))
        return jax.tree.map(jnp.array, dict(p=p0, m=np.zeros_like(p0), q=q, e=e))


# ------------------------------------------------------------------------------------------------ lanes
DEFAULT = dict(
    lr=0.2, mom=0.9, warmup=0.2, power=1.0, smooth=0.0, wd=0.0, bnmom=0.9, decay=(0.998, 0.9995, 0.99),
    rot=10.0, scale=0.07, shift=1.4, aug0=1.0, aug1=1.0, aniso=0.0, shear=0.0, elastic=0.0, cut=0.0,
    muon=0.0, mlr=0.02, mmom=0.95, distill=0.0, temper=1.0,
    bnscale=False,      # learned scale of batch norms
    centre=True,        # depthwise kernels' centre tap fixed to cval (of the separable layers)
    cval=1.0,
    dwshare="own",      # own | one (layers of equal width share one bank) | bank (all separable ones) | bank0 (and conv1)
    pwshare="own",      # own | list of labels, one for each square pointwise matrix
    init="torch",       # torch | identity
    idscale=1.0, noise=1.0, biasmul=1.0, dwmul=1.0, pwmul=1.0, headmul=1.0, scalemul=1.0,
    diag=False,         # diagonal of square pointwise matrices fixed to 1
    dwfix="",           # "" | dct (fixed, not counted)
    headbias=False, lastbias=True,
)
VECTORS = ("lr mom warmup power smooth wd bnmom decay rot scale shift aug0 aug1 aniso shear elastic cut muon mlr mmom distill "
           "temper total").split()


def dct_bank(c):
    """Nine 3x3 cosine filters in turn, alternating sign of the whole filter is absorbed by the mixing."""
    k = np.arange(3)
    one = np.stack([np.cos(np.pi * (k + 0.5) * f / 3) for f in range(3)])
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    bank = np.stack([np.outer(one[a], one[b]).reshape(9) for a in range(3) for b in range(3)])
    return bank[np.arange(c) % 9].T.astype(np.float32)


def lane(lay, cfg, seed):
    """Initial vector, tie indices, multipliers, parameter count."""
    rng = np.random.default_rng([seed, 12345])
    L, off = lay["n"], lay["offsets"]
    p, mul, decays = {}, {}, {}
    tie = {k: np.arange(o, o + math.prod(s)) for k, (o, s) in off.items()}
    for k, (o, s) in off.items():
        kind = re.match("[a-z]+", k)[0]
        mul[k], decays[k] = np.ones(s, np.float32), np.zeros(s, np.float32)
        if kind == "dw":
            p[k] = rng.uniform(-1 / 3, 1 / 3, s)
            if k != "dw0" and cfg["init"] == "identity":
                p[k] = p[k] * cfg["noise"]
                p[k][4] = 1
            if cfg["dwfix"] == "dct" and k != "dw0":
                p[k], mul[k] = dct_bank(s[1]), mul[k] * 0
            elif cfg["centre"] and k != "dw0":
                p[k][4] = cfg["cval"]
                mul[k][4] = 0
            mul[k] = mul[k] * (cfg["dwmul"] if k != "dw0" else 1)
            decays[k] += 1
        elif kind == "pw":
            p[k] = rng.uniform(-1, 1, s) * s[0] ** -0.5
            if cfg["init"] == "identity":
                p[k] = p[k] * cfg["noise"] + cfg["idscale"] * np.eye(*s)
            mul[k] = mul[k] * cfg["pwmul"]
            if cfg["diag"] and s[0] == s[1]:
                np.fill_diagonal(p[k], 1)
                np.fill_diagonal(mul[k], 0)
            decays[k] += 1
        elif kind == "scale":
            p[k], mul[k] = np.ones(s), mul[k] * float(cfg["bnscale"]) * cfg["scalemul"]
        elif kind == "bias":
            p[k], mul[k] = np.zeros(s), mul[k] * cfg["biasmul"]
            if not cfg["lastbias"] and k == f"bias{L - 1}":
                mul[k] *= 0
        elif kind == "head":
            p[k], mul[k] = rng.uniform(-1, 1, s) * s[0] ** -0.5, mul[k] * cfg["headmul"]
        elif kind == "headbias":
            p[k], mul[k] = np.zeros(s), mul[k] * float(cfg["headbias"])
    if cfg["dwshare"] == "one":
        seen = {}
        for n in range(1, L):
            width = off[f"dw{n}"][1][1]
            if width in seen:
                tie[f"dw{n}"], p[f"dw{n}"] = tie[seen[width]], p[seen[width]]
            seen.setdefault(width, f"dw{n}")
    if cfg["dwshare"] in ("bank", "bank0"):  # every layer takes the first columns of the widest one's bank
        widest = max(range(1, L), key=lambda n: (off[f"dw{n}"][1][1], -n))
        for n in range(0 if cfg["dwshare"] == "bank0" else 1, L):
            c = off[f"dw{n}"][1][1]
            tie[f"dw{n}"] = tie[f"dw{widest}"].reshape(9, -1)[:, :c].reshape(-1)
            p[f"dw{n}"], mul[f"dw{n}"] = p[f"dw{widest}"][:, :c], mul[f"dw{widest}"][:, :c]
    if cfg["pwshare"] != "own":
        square = [n for n in range(1, L) if off[f"pw{n}"][1][0] == off[f"pw{n}"][1][1]]
        labels = cfg["pwshare"]
        assert len(labels) == len(square), (labels, square)
        seen = {}
        for n, label in zip(square, labels):
            if label in seen:
                tie[f"pw{n}"], p[f"pw{n}"] = tie[seen[label]], p[seen[label]]
                if cfg["dwshare"] == "block":
                    tie[f"dw{n}"], p[f"dw{n}"] = tie[f"dw{seen[label][2:]}"], p[f"dw{seen[label][2:]}"]
            seen.setdefault(label, f"pw{n}")
    cat = lambda t: np.concatenate([np.asarray(t[k]).reshape(-1) for k in off])
    tievec, mulvec = cat(tie).astype(np.int32), cat(mul).astype(np.float32)
    count = len(np.unique(tievec[mulvec > 0]))
    return cat(p).astype(np.float32), tievec, mulvec, cat(decays).astype(np.float32), count


def make(group, entries, epochs):
    """entries: list of (cfg, fold, seed). Returns the arrays for `epoch` and the counts."""
    lay, per_epoch = group.lay, 50000 // group.batch
    ps, hs, vs, counts = [], [], [], []
    for cfg, fold, seed in entries:
        cfg = DEFAULT | cfg
        p, tie, mul, decays, count = lane(lay, cfg, seed)
        ps.append(p)
        vs.append(dict(tie=tie, mul=mul, decays=decays))
        h = {k: np.asarray(cfg[k] if k != "total" else epochs * per_epoch, np.float32) for k in VECTORS}
        assert h["decay"].shape == (K_EMA,)
        hs.append(h)
        counts.append(count)
    stack = lambda ts: jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *ts)
    root = [jax.random.key(1000 * seed + fold, impl="threefry2x32") for _, fold, seed in entries]
    keys = jnp.stack([jnp.stack([jax.random.fold_in(k, 1), jax.random.fold_in(k, 2)]) for k in root])
    fold = jnp.asarray([f for _, f, _ in entries], jnp.int32)
    return group.init_state(np.stack(ps)), stack(hs), stack(vs), keys, fold, counts
