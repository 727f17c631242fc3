"""Runs a queue (shapes with waves of configurations) until a time limit. python run.py QUEUE SECONDS OUT [--tiny]"""
import importlib, json, os, sys, time, traceback
from concurrent.futures import ThreadPoolExecutor
T0 = time.time()
queue_name, limit, out = sys.argv[1], float(sys.argv[2]), sys.argv[3]
tiny = "--tiny" in sys.argv
here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, here)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "/tmp/jaxcache")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
import numpy as np
import jax, jax.numpy as jnp
import engine as E

def say(*a):
    print(f"[{time.time() - T0:6.1f}]", *a, flush=True)

def left():
    return limit - (time.time() - T0)

device = jax.devices()[0]
say(jax.__version__, device.device_kind)
X, Y = E.load(f"{here}/../mnist")
f = np.load(f"{here}/folds.npz")
data, labels = jnp.asarray(E.words(X)), jnp.asarray(Y)
kept, held = jnp.asarray(f["kept"].astype(np.int32)), jnp.asarray(f["held"].astype(np.int32))
if tiny:
    held = held[:, :500]
say("data on device")
queue = importlib.import_module(queue_name)
OPTIONS = {"highest": jax.lax.Precision.HIGHEST, "default": None}
COMPILER = {"plain": {}, "quick": {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}}


def build(spec, variant):
    """Compiled functions of a shape, for a fixed number of lanes. variant: (barrier, precision, compiler)."""
    barrier, prec, compiler = variant
    wave = spec["waves"][0]
    g = E.Group(spec["plan"], spec["batch"], spec.get("optimiser", "muon"), spec["lanes"], OPTIONS[prec], barrier,
                spec.get("scaled", False), spec.get("elastic", False), teacher=spec.get("teacher"), **(dict(recal=500) if tiny else {}))
    tp = jnp.asarray(np.load(f"{here}/{spec['teacher_file']}")["teachers"]) if g.tlay is not None else None
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    began = time.time()
    state, h, v, keys, fold, _ = E.make(g, padded(wave["configs"], g.lanes), 1)
    options = COMPILER[compiler] if device.platform == "gpu" else {}
    def comp(fn, args, **kw):
        return jax.jit(fn, **kw).lower(*args).compile(compiler_options=options or None)
    epoch = comp(g.epoch, (state, scalar, scalar, data, labels, kept, fold, keys, scalar, h, v, tp), donate_argnums=(0,))
    evaluate = comp(g.evaluate, (state, data, labels, kept, held, fold, h))
    say(f"compiled {spec['name']} in {time.time() - began:.1f} s")
    return dict(g=g, spec=spec, epoch=epoch, evaluate=evaluate, tp=tp, compile=time.time() - began, variant=variant)


def padded(configs, lanes):
    entries = [(cfg, fold, seed) for _, cfg, ls in configs for fold, seed in ls]
    assert len(entries) <= lanes, (len(entries), lanes)
    return entries + [entries[-1]] * (lanes - len(entries))


def launch(b, first, count, number):
    i = np.int32
    b["state"], loss = b["epoch"](b["state"], i(first), i(count), data, labels, kept, b["fold"], b["keys"], i(number),
                                  b["h"], b["v"], b["tp"])
    return np.asarray(loss)


PREDS, WEIGHTS, SCORES = {}, {}, {}

def run(b, wave):
    spec, g = b["spec"], b["g"]
    per_epoch, epochs = 50000 // spec["batch"], wave["epochs"]
    if "select" in wave:  # the best by the mean of all averages' accuracies, own and recalibrated, with new seeds
        source, n = wave["select"]
        best = sorted(SCORES[source], key=lambda e: -e[0])[:n]
        wave["configs"] = [(name, cfg, wave["lanes"]) for _, name, cfg in best]
        if tiny:
            wave["configs"] = [(n_, c, l[:1]) for n_, c, l in wave["configs"]][:3]
    b["state"], b["h"], b["v"], b["keys"], b["fold"], b["counts"] = E.make(g, padded(wave["configs"], g.lanes), epochs)
    began = time.time()
    for e in range(epochs):
        count = per_epoch if not tiny else 3
        loss = launch(b, e * per_epoch, count, e)
        took = time.time() - began
        if e == 0:
            say(f"{wave['name']}: first epoch {took:.2f} s, {1e3 * took / count:.3f} ms a step, {g.lanes} lanes")
            if took * (epochs - 1) + 3 > left():
                raise TimeoutError(f"needs {took * (epochs - 1):.0f} s, {left():.0f} left")
    correct, losses, recal, preds = (np.asarray(a) for a in b["evaluate"](b["state"], data, labels, kept, held, b["fold"], b["h"]))
    seconds = time.time() - began
    at = 0
    texts = []
    for name, cfg, lanes in wave["configs"]:
        sl = slice(at, at + len(lanes))
        full = E.DEFAULT | cfg
        row = dict(queue=queue_name, group=wave["name"], target=wave["target"], name=name, plan=spec["plan"], batch=spec["batch"],
                   optimiser=spec.get("optimiser", "muon"), epochs=epochs, parameters=int(b["counts"][at]),
                   macs=int(g.lay["macs"]), lanes=[list(x) for x in lanes], decay=list(full["decay"]),
                   accuracies=(correct[sl] / 100).T.tolist(), recalibrated=(recal[sl] / 100).T.tolist(),
                   losses=(losses[sl] / 10000).T.round(5).tolist(), train_loss=loss[sl].round(5).tolist(),
                   seconds_group=round(seconds, 1), lanes_group=g.lanes, device=device.device_kind,
                   variant=list(b["variant"]), settings=full, teacher=spec.get("teacher"))
        with open(f"{out}/results.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        a = np.array(row["accuracies"])
        SCORES.setdefault(wave["name"], []).append((np.mean(row["accuracies"]) + np.mean(row["recalibrated"]), name, cfg))
        own = [i for i, (fo, _) in enumerate(lanes) if fo > 0]
        zero = [i for i, (fo, _) in enumerate(lanes) if fo == 0]
        text = " ".join(f"{a[k][own].mean():.3f}" for k in range(E.K_EMA)) if own else ""
        text += " |re " + " ".join(f"{np.array(row['recalibrated'])[k][own].mean():.3f}" for k in range(E.K_EMA)) if own else ""
        text += f" |fold0 {a[0][zero].mean():.3f}" if zero else ""
        texts.append(f"  {name:38s} {row['parameters']:6d} {text} loss {np.array(row['losses'])[0].mean():.4f} train {np.mean(row['train_loss']):.4f}")
        PREDS[f"{wave['name']}/{name}"] = preds[sl, 0]
        if wave.get("keep"):
            WEIGHTS[f"{wave['name']}/{name}"] = np.asarray(b["state"]["e"])[sl, 0]
        at += len(lanes)
    say(f"{wave['name']} done: {seconds:.1f} s for {g.lanes} lanes, compile {b['compile']:.1f} s")
    print("\n".join(texts), flush=True)


def fail(spec, why):
    say("FAILED", spec["name"], why[:300])
    with open(f"{out}/results.jsonl", "a") as file:
        file.write(json.dumps(dict(queue=queue_name, group=spec["name"], failed=why[:2000])) + "\n")


def main():
    shapes = queue.SHAPES
    if tiny:
        for s in shapes:
            s["lanes"] = 3
            for w in s["waves"]:
                w["configs"] = [(n, c, ls[:1]) for n, c, ls in w["configs"]][:3]
                w["epochs"] = min(w["epochs"], 2)
        wanted = [a for a in sys.argv if a.startswith("only=")]
        if wanted:
            shapes = [s for s in shapes if s["name"] in wanted[0][5:].split(",")]
    pool = ThreadPoolExecutor(queue.THREADS if not tiny else 1)
    futures = {s["name"]: pool.submit(build, s, queue.VARIANT) for s in shapes}
    estimates = {}
    waiting = [(s, w) for s in shapes for w in s["waves"]]
    waiting.sort(key=lambda sw: sw[1].get("order", 0))
    while waiting and left() > 3:
        ready = [sw for sw in waiting if futures[sw[0]["name"]].done()
                 and ("select" not in sw[1] or sw[1]["select"][0] in SCORES)]
        if not ready:
            if all(f.done() for f in futures.values()):
                break  # what is left selects from a wave that failed
            time.sleep(0.1)
            continue
        s, w = ready[0]
        waiting.remove((s, w))
        try:
            run(futures[s["name"]].result(), w)
        except Exception as error:
            if not isinstance(error, TimeoutError):
                traceback.print_exc()
            fail(w, repr(error))
    for s, w in waiting:
        fail(w, "not started")
    np.savez_compressed(f"{out}/predictions_{queue_name}.npz", **PREDS)
    if WEIGHTS:
        np.savez_compressed(f"{out}/weights_{queue_name}.npz", **WEIGHTS)
    say("end")
    sys.stdout.flush()
    os._exit(0)

main()
