"""First call: baselines and a broad look. Folds 1..6 with one seed each; baselines more, and fold 0 as the package's."""
F = [(f, 1) for f in range(1, 7)]
F2 = F + [(f, 2) for f in range(1, 7)]
Z = [(0, s) for s in range(1, 5)]
THREADS, AHEAD, MARGIN = 12, 8, 0.87
VARIANT = (True, "highest", "quick")
TRY = [(True, "default", "quick"), (False, "default", "quick"), (True, "highest", "quick"), (True, "default", "plain")]

OLD = dict(bnscale=True, centre=False)              # as the package today
C3 = dict(centre=True, cval=1 / 3)                  # centre tap fixed where the others are uniform in +-1/3
ID = dict(centre=True, cval=1.0, init="identity", noise=0.5, idscale=1.0)
ONE = dict(lr=0.1, smooth=0.05, rot=5.0, scale=0.035, shift=0.7, decay=(0.98, 0.99, 0.995))
FAST = dict(lr=0.1, decay=(0.998, 0.995, 0.999))
FULL = dict(lr=0.2, smooth=0.1, decay=(0.998, 0.9995, 0.999))
S = dict(dwshare="one")

def group(name, target, plan, batch, epochs, configs, **kw):
    return dict(name=name, target=target, plan=plan, batch=batch, epochs=epochs, configs=configs, **kw)

small14 = group("small14", "small", "8v 12v P 14*3 14v*4", 32, 15, [
    ("base", OLD, F2 + Z),
    ("noscale", dict(centre=False), F),
    ("noscale_centre", C3, F),
    ("noscale_identity", ID, F),
    ("dw1", C3 | S, F),
    ("noscale_augend", dict(centre=False, aug1=0.3), F),
], scaled=True)

one_sgd = group("one_sgd", "one", "12v 20v P 38 38v*4", 32, 1, [
    ("base", ONE | OLD, F2 + Z + [(0, 5), (0, 6)]),
    ("noscale", ONE | dict(centre=False), F),
    ("noscale_centre", ONE | C3, F),
    ("identity", ONE | ID, F),
    ("identity_lr15", ONE | ID | dict(lr=0.15), F),
    ("identity_free", ONE | ID | dict(centre=False), F),
    ("bias4", ONE | dict(centre=False, biasmul=4.0), F),
    ("bias16", ONE | dict(centre=False, biasmul=16.0), F),
    ("warm10", ONE | dict(centre=False, warmup=0.1), F),
    ("power15", ONE | dict(centre=False, power=1.5), F),
    ("augend0", ONE | dict(centre=False, aug0=1.5, aug1=0.0), F),
    ("augend5", ONE | dict(centre=False, aug0=1.0, aug1=0.3), F),
], scaled=True)

M = dict(centre=False, mlr=0.02)
one_muon = group("one_muon", "one", "12v 20v P 38 38v*4", 32, 1, [
    ("m02", ONE | M, F2),
    ("m01", ONE | M | dict(mlr=0.01), F),
    ("m04", ONE | M | dict(mlr=0.04), F),
    ("m08", ONE | M | dict(mlr=0.08), F),
    ("m02_m90", ONE | M | dict(mmom=0.9), F),
    ("m02_lr05", ONE | M | dict(lr=0.05), F),
    ("m02_lr2", ONE | M | dict(lr=0.2), F),
    ("m02_identity", ONE | ID | dict(mlr=0.02), F),
    ("m02_smooth1", ONE | M | dict(smooth=0.1), F),
    ("m02_full", ONE | M | dict(rot=10.0, scale=0.07, shift=1.4, aug1=0.2), F),
    ("m02_augend", ONE | M | dict(aug1=0.2), F),
    ("m02_bias4", ONE | M | dict(biasmul=4.0), F),
], optimiser="muon")

one_muondw = group("one_muondw", "one", "12v 20v P 38 38v*4", 32, 1, [
    ("m02", ONE | M, F),
    ("m01", ONE | M | dict(mlr=0.01), F),
    ("m04", ONE | M | dict(mlr=0.04), F),
    ("m08", ONE | M | dict(mlr=0.08), F),
    ("m02_free_identity", ONE | ID | dict(centre=False, mlr=0.02), F),
    ("m04_smooth1", ONE | M | dict(mlr=0.04, smooth=0.1), F),
], optimiser="muondw")

small15 = group("small15", "small", "8v 12v P 15*3 15v*4", 32, 15, [
    ("dw1", C3 | S, F),
    ("dw1_free", S | dict(centre=False), F),
    ("dw1_lr1", C3 | S | dict(lr=0.1), F),
    ("dw1_lr4", C3 | S | dict(lr=0.4), F),
    ("dw1_id", ID | S, F),
])
small20 = group("small20", "small", "8v 12v P 20*3 20v*4", 32, 15, [
    ("n2", C3 | S | dict(pwshare="AABBBB"), F),
    ("n2alt", C3 | S | dict(pwshare="ABABAB"), F),
    ("n3", C3 | S | dict(pwshare="AABBCC"), F),
    ("n2_lr1", C3 | S | dict(pwshare="AABBBB", lr=0.1), F),
    ("n2_id", ID | S | dict(pwshare="AABBBB"), F),
])
small24 = group("small24", "small", "8v 12v P 24*3 24v*4", 32, 15, [
    ("n1", C3 | S | dict(pwshare="AAAAAA"), F),
    ("n1_lr1", C3 | S | dict(pwshare="AAAAAA", lr=0.1), F),
    ("n1_id", ID | S | dict(pwshare="AAAAAA"), F),
    ("n2alt", C3 | S | dict(pwshare="ABABAB"), F),
])
small24r = group("small24r", "small", "8v 12v P 24 24r*2 24vr*4", 32, 15, [
    ("n1", C3 | S | dict(pwshare="AAAAAA"), F),
    ("n1_lr1", C3 | S | dict(pwshare="AAAAAA", lr=0.1), F),
    ("n2", C3 | S | dict(pwshare="AABBBB"), F),
])
small14m = group("small14m", "small", "8v 12v P 14*3 14v*4", 32, 15, [
    ("m02", dict(centre=False, mlr=0.02), F),
    ("m04", dict(centre=False, mlr=0.04), F),
    ("m01", dict(centre=False, mlr=0.01), F),
    ("m02_dw1", C3 | S | dict(mlr=0.02), F),
], optimiser="muon")
small16p = group("small16p", "small", "16v P 16*3 16v*5", 32, 15, [
    ("n4", C3 | S | dict(pwshare="AABBCCDD"), F),
    ("own6", C3 | S | dict(pwshare="AABCCDEF"), F),
    ("own8", C3 | S, F),
])
full = group("full", "full", "12v 20v P 38 38v*4", 64, 15, [
    ("base", FULL | OLD, F + Z),
    ("elastic10", FULL | OLD | dict(elastic=1.0), F),
    ("elastic6_affine", FULL | OLD | dict(elastic=0.6, shear=0.1, aniso=0.07), F),
    ("augend3", FULL | OLD | dict(aug1=0.3), F),
    ("elastic10_augend", FULL | OLD | dict(elastic=1.0, aug1=0.3), F),
    ("cut8", FULL | OLD | dict(cut=8.0), F),
], scaled=True, elastic=True, keep=True)
full43 = group("full43", "full", "12v 20v P 43 43v*4", 64, 15, [
    ("dw1", FULL | C3 | S, F),
    ("dw1_elastic8", FULL | C3 | S | dict(elastic=0.8), F),
    ("dw1_elastic8_augend", FULL | C3 | S | dict(elastic=0.8, aug1=0.3), F),
], elastic=True)
full56 = group("full56", "full", "12v 20v P 56*2 56v*4", 64, 15, [
    ("n2", FULL | C3 | S | dict(pwshare="ABBBB" if False else "AABBB"), F),
    ("n2_elastic8", FULL | C3 | S | dict(pwshare="AABBB", elastic=0.8), F),
], elastic=True)
fast = group("fast", "fast", "10v 16v P 32 36 40v 42v 40v", 64, 5, [
    ("base", FAST | OLD, F + Z),
    ("noscale", FAST | dict(centre=False), F),
    ("identity", FAST | ID, F),
    ("elastic6", FAST | dict(centre=False, elastic=0.6), F),
    ("augend3", FAST | dict(centre=False, aug1=0.3), F),
    ("elastic6_augend", FAST | dict(centre=False, elastic=0.8, aug1=0.3), F),
], scaled=True, elastic=True)
fastm = group("fastm", "fast", "10v 16v P 32 36 40v 42v 40v", 64, 5, [
    ("m02", FAST | M, F),
    ("m04", FAST | M | dict(mlr=0.04), F),
    ("m01", FAST | M | dict(mlr=0.01), F),
    ("m02_augend3", FAST | M | dict(aug1=0.3), F),
    ("m02_elastic6_augend3", FAST | M | dict(aug1=0.3, elastic=0.6), F),
    ("m02_lr2", FAST | M | dict(lr=0.2), F),
], optimiser="muon", elastic=True)
one_wide = group("one_wide", "one", "12v 20v P 43 43v*4", 32, 1, [
    ("dw1_m02", ONE | C3 | S | dict(mlr=0.02), F),
    ("dw1_m02_id", ONE | ID | S | dict(mlr=0.02), F),
    ("dw1free_m02", ONE | S | dict(mlr=0.02, centre=False), F),
], optimiser="muon")
one_y = group("one_y", "one", "10v 16v P 32 36 40v 42v 40v", 32, 1, [
    ("m02", ONE | M, F),
    ("m04", ONE | M | dict(mlr=0.04), F),
    ("m02_id", ONE | ID | dict(mlr=0.02), F),
], optimiser="muon")
one_16 = group("one_16", "one", "12v 20v P 38 38v*4", 16, 1, [
    ("m02", ONE | M, F),
    ("m01", ONE | M | dict(mlr=0.01, lr=0.05), F),
    ("m01_d99", ONE | M | dict(mlr=0.01, lr=0.07, decay=(0.99, 0.995, 0.997)), F),
], optimiser="muon")

GROUPS = [small14, one_sgd, one_muon, full, fastm, small20, small15, fast, one_muondw, small24, small14m, full43, small24r,
          one_wide, one_y, one_16, small16p, full56]
