"""Second call: one network shape per target, many settings."""
import random
F = [(f, 1) for f in range(1, 7)]
ODD = [(1, 1), (3, 1), (5, 1)]
EVEN = [(2, 1), (4, 1), (6, 1)]
THREADS = 8
VARIANT = (True, "highest", "quick")
OLD = dict(bnscale=True, centre=False)
C3 = dict(centre=True, cval=1 / 3)
S, BANK, BANK0 = dict(dwshare="one"), dict(dwshare="bank"), dict(dwshare="bank0")
ONE = dict(lr=0.1, smooth=0.05, rot=5.0, scale=0.035, shift=0.7, decay=(0.98, 0.99, 0.995))
FAST = dict(lr=0.1, decay=(0.998, 0.995, 0.999))
FULL = dict(lr=0.2, smooth=0.1, decay=(0.998, 0.9995, 0.999))
MU = dict(muon=1.0, mlr=0.02)

# ---- one epoch: random settings around Muon
rng = random.Random(7)
def one_random():
    strength = rng.choice([0.7, 1.0, 1.4, 2.0])
    return ONE | S | MU | dict(
        mlr=rng.choice([0.01, 0.02, 0.03, 0.05]), mmom=rng.choice([0.85, 0.9, 0.95]), lr=rng.choice([0.05, 0.1, 0.2]),
        warmup=rng.choice([0.05, 0.1, 0.2, 0.3]), power=rng.choice([1.0, 1.0, 1.4]), smooth=rng.choice([0.0, 0.05, 0.1]),
        aug0=strength, aug1=rng.choice([0.0, 0.3, 1.0]) * strength, centre=rng.choice([True, False]),
        cval=rng.choice([1 / 3, 1.0]), dwmul=rng.choice([0.3, 1.0]), biasmul=rng.choice([1.0, 4.0]))
one_a = [("sgd", ONE | S | C3, ODD), ("m02", ONE | S | C3 | MU, ODD), ("m02_free", ONE | S | MU | dict(centre=False), ODD)]
one_a += [(f"r{i}", one_random(), ODD) for i in range(29)]
one_b = [("m02", ONE | S | C3 | MU, EVEN)] + [(f"r{i}", one_random(), EVEN) for i in range(29, 60)]
hi = [("base_x38", None, None)]
SHAPES = [
    dict(name="one43", plan="12v 20v P 43 43v*4", batch=32, lanes=96, waves=[
        dict(name="one43a", target="one", epochs=1, order=1, configs=one_a),
        dict(name="one43b", target="one", epochs=1, order=1, configs=one_b)]),
    dict(name="full43", plan="12v 20v P 43 43v*4", batch=64, lanes=42, elastic=True, waves=[
        dict(name="full43a", target="full", epochs=15, order=2, keep=True, configs=[
            ("sgd_aug3", FULL | S | C3 | dict(aug1=0.3), ODD),
            ("sgd_aug0", FULL | S | C3 | dict(aug1=0.0), ODD),
            ("sgd_aug0_elastic5", FULL | S | C3 | dict(aug1=0.0, elastic=0.5), ODD),
            ("sgd_aug3_smooth2", FULL | S | C3 | dict(aug1=0.3, smooth=0.2), ODD),
            ("sgd_aug3_lr1", FULL | S | C3 | dict(aug1=0.3, lr=0.1), ODD),
            ("sgd_aug3_all4", FULL | S | C3 | dict(aug1=0.3, elastic=0.4, shear=0.08, aniso=0.05), ODD),
            ("m02", FULL | S | C3 | MU, ODD),
            ("m02_aug3", FULL | S | C3 | MU | dict(aug1=0.3), ODD),
            ("m01_aug3", FULL | S | C3 | MU | dict(aug1=0.3, mlr=0.01), ODD),
            ("m005_aug3", FULL | S | C3 | MU | dict(aug1=0.3, mlr=0.005), ODD),
            ("m02_aug3_smooth05", FULL | S | C3 | MU | dict(aug1=0.3, smooth=0.05), ODD),
            ("m02_aug0_elastic5", FULL | S | C3 | MU | dict(aug1=0.0, elastic=0.5), ODD),
            ("m02_aug3_all4", FULL | S | C3 | MU | dict(aug1=0.3, elastic=0.4, shear=0.08, aniso=0.05), ODD),
            ("m02_strong_aug0", FULL | S | C3 | MU | dict(aug0=1.5, aug1=0.0), ODD),
        ])]),
    dict(name="small14", plan="8v 12v P 14*3 14v*4", batch=32, lanes=51, waves=[
        dict(name="small14a", target="small", epochs=15, order=2, configs=[
            ("noscale_repeat", dict(centre=False), F),      # as in call 1, there in TF32
            ("base_fold0", OLD, [(0, 1), (0, 2), (0, 3)]),
            ("bank", C3 | BANK, EVEN),
            ("bank0", C3 | BANK0, EVEN),
            ("bank_dw3", C3 | BANK | dict(dwmul=0.3), EVEN),
            ("bank_dw1", C3 | BANK | dict(dwmul=0.1), EVEN),
            ("bank_cval1", dict(centre=True, cval=1.0) | BANK, EVEN),
            ("bank_aug3", C3 | BANK | dict(aug1=0.3), EVEN),
            ("bank_power15", C3 | BANK | dict(power=1.5), EVEN),
            ("bank_m01", C3 | BANK | MU | dict(mlr=0.01), EVEN),
            ("bank_m005", C3 | BANK | MU | dict(mlr=0.005), EVEN),
            ("bank_m0025", C3 | BANK | MU | dict(mlr=0.0025), EVEN),
            ("bank_m01_dw3", C3 | BANK | MU | dict(mlr=0.01, dwmul=0.3), EVEN),
            ("bank_m005_lr1", C3 | BANK | MU | dict(mlr=0.005, lr=0.1), EVEN),
            ("noscale_m005", dict(centre=False, mlr=0.005, muon=1.0), EVEN),
            ("noscale_m0025", dict(centre=False, mlr=0.0025, muon=1.0), EVEN),
        ])]),
    dict(name="fast44", plan="10v 16v P 44 44 44v*3", batch=64, lanes=48, elastic=True, waves=[
        dict(name="fast44a", target="fast", epochs=5, order=2, configs=[
            ("sgd", FAST | S | C3, ODD),
            ("m02", FAST | S | C3 | MU, ODD),
            ("m01", FAST | S | C3 | MU | dict(mlr=0.01), ODD),
            ("m03", FAST | S | C3 | MU | dict(mlr=0.03), ODD),
            ("m02_free", FAST | S | MU | dict(centre=False), ODD),
            ("m02_dw3", FAST | S | C3 | MU | dict(dwmul=0.3), ODD),
            ("m02_aug0", FAST | S | C3 | MU | dict(aug1=0.0), ODD),
            ("m02_strong_aug0", FAST | S | C3 | MU | dict(aug0=1.5, aug1=0.0), ODD),
            ("m02_elastic4_aug5", FAST | S | C3 | MU | dict(elastic=0.4, aug1=0.5), ODD),
            ("m02_smooth05", FAST | S | C3 | MU | dict(smooth=0.05), ODD),
            ("m02_power15", FAST | S | C3 | MU | dict(power=1.5), ODD),
            ("m02_warm10", FAST | S | C3 | MU | dict(warmup=0.1), ODD),
            ("m02_m90", FAST | S | C3 | MU | dict(mmom=0.9), ODD),
            ("m02_lr2", FAST | S | C3 | MU | dict(lr=0.2), ODD),
            ("m02_lr05", FAST | S | C3 | MU | dict(lr=0.05), ODD),
            ("m02_cval1", FAST | S | MU | dict(centre=True, cval=1.0), ODD),
        ])]),
    dict(name="small14n", plan="6v 10v P 14*3 14v*4", batch=32, lanes=36, waves=[
        dict(name="small14na", target="small", epochs=15, order=3, configs=[
            ("bank", C3 | BANK, F),
            ("bank_m01", C3 | BANK | MU | dict(mlr=0.01), F),
            ("bank_m005", C3 | BANK | MU | dict(mlr=0.005), F),
            ("bank_dw3", C3 | BANK | dict(dwmul=0.3), EVEN),
            ("bank0", C3 | BANK0, EVEN),
            ("own", C3, EVEN),
        ])]),
    dict(name="small13", plan="8v 12v P 13*3 13v*4", batch=32, lanes=36, waves=[
        dict(name="small13a", target="small", epochs=15, order=3, configs=[
            ("bank", C3 | BANK, F),
            ("bank_m01", C3 | BANK | MU | dict(mlr=0.01), F),
            ("bank_m005", C3 | BANK | MU | dict(mlr=0.005), F),
            ("dw1", C3 | S, F),
        ])]),
    dict(name="small15d", plan="8v 12v P 15*3 15v*3", batch=32, lanes=24, waves=[
        dict(name="small15da", target="small", epochs=15, order=4, configs=[
            ("bank", C3 | BANK, F),
            ("bank_m01", C3 | BANK | MU | dict(mlr=0.01), F),
        ])]),
    dict(name="one38", plan="12v 20v P 38 38v*4", batch=32, lanes=36, waves=[
        dict(name="one38a", target="one", epochs=1, order=2, configs=[
            ("base_hi", ONE | OLD, F + [(0, s) for s in range(1, 7)]),
            ("noscale_repeat", ONE | dict(centre=False), F),
            ("bank_m02", ONE | C3 | BANK | MU, F),
            ("m02_repeat", ONE | MU | dict(centre=False), F),
        ])]),
]
