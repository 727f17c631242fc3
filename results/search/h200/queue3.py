"""Third call: refine, and confirm the best of each refinement with new seeds. The same shapes, so programs are cached."""
def FS(*seeds): return [(f, s) for s in seeds for f in range(1, 7)]
THREADS = 2
VARIANT = (True, "highest", "quick")
C3 = dict(centre=True, cval=1 / 3)
S, BANK, BANK0 = dict(dwshare="one"), dict(dwshare="bank"), dict(dwshare="bank0")
ONE = dict(lr=0.1, smooth=0.05, rot=5.0, scale=0.035, shift=0.7, decay=(0.98, 0.99, 0.995))
FAST = dict(lr=0.1, decay=(0.998, 0.995, 0.999))
FULL = dict(lr=0.2, smooth=0.1, decay=(0.998, 0.9995, 0.999))
def MU(rate): return dict(muon=1.0, mlr=rate)

A = ONE | S | C3 | MU(0.03) | dict(biasmul=4.0)
one_c = [("A", A), ("A_bias1", A | dict(biasmul=1.0)), ("A_warm3", A | dict(warmup=0.3)), ("A_m04", A | MU(0.04)),
         ("A_dw2", A | dict(dwmul=2.0)), ("A_dw4", A | dict(dwmul=4.0)), ("A_mmom90", A | dict(mmom=0.9)),
         ("A_lr2", A | dict(lr=0.2)), ("A_aug0", A | dict(aug1=0.0)), ("A_smooth03", A | dict(smooth=0.03)),
         ("A_smooth07", A | dict(smooth=0.07)), ("A_strong_aug0", A | dict(aug0=1.4, aug1=0.0)),
         ("A_bias16", A | dict(biasmul=16.0)), ("A_free", A | dict(centre=False)), ("A_head4", A | dict(headmul=4.0)),
         ("A_cval15", A | dict(cval=0.15))]
B = FAST | S | C3 | MU(0.02)
fast_b = [("m02", B), ("m02_lr2", B | dict(lr=0.2)), ("m02_lr2_m90", B | dict(lr=0.2, mmom=0.9)),
          ("m03_lr2", B | MU(0.03) | dict(lr=0.2)), ("m02_lr2_power15", B | dict(lr=0.2, power=1.5)),
          ("m02_lr4", B | dict(lr=0.4)), ("m02_bias4", B | dict(biasmul=4.0)), ("m04_m90", B | MU(0.04) | dict(mmom=0.9))]
D = FULL | S | C3 | MU(0.02)
MILD = dict(elastic=0.4, shear=0.08, aniso=0.05)
full_b = [("m02", D), ("m02_aug5", D | dict(aug1=0.5)), ("m02_aug3_smooth05", D | dict(aug1=0.3, smooth=0.05)),
          ("m02_aug3_all4", D | MILD | dict(aug1=0.3)), ("m02_aug5_all4_smooth05", D | MILD | dict(aug1=0.5, smooth=0.05)),
          ("m03_aug5_all4", D | MU(0.03) | MILD | dict(aug1=0.5)), ("m02_smooth05", D | dict(smooth=0.05))]
N = C3 | BANK
small_n = [("bank_m01_aug3", N | MU(0.01) | dict(aug1=0.3)), ("bank_aug3", N | dict(aug1=0.3)),
           ("bank_m01_aug0", N | MU(0.01) | dict(aug1=0.0)), ("bank_m02_aug3", N | MU(0.02) | dict(aug1=0.3)),
           ("bank_m01_aug3_dw2", N | MU(0.01) | dict(aug1=0.3, dwmul=2.0)), ("bank_m01_aug5", N | MU(0.01) | dict(aug1=0.5))]
small_w = [("bank_m01_aug3", N | MU(0.01) | dict(aug1=0.3)), ("bank_aug3", N | dict(aug1=0.3)),
           ("bank_m01_aug0", N | MU(0.01) | dict(aug1=0.0)), ("dw1_m01_aug3", C3 | S | MU(0.01) | dict(aug1=0.3)),
           ("dw1_aug3", C3 | S | dict(aug1=0.3)), ("bank_m01_aug5", N | MU(0.01) | dict(aug1=0.5)),
           ("bank0_nolast_m01_aug3", C3 | BANK0 | MU(0.01) | dict(aug1=0.3, lastbias=False)),
           ("noscale_m01_aug3", dict(centre=False, aug1=0.3) | MU(0.01))]
def all_of(pairs, *seeds): return [(n, c, FS(*seeds)) for n, c in pairs]

SHAPES = [
    dict(name="one43", plan="12v 20v P 43 43v*4", batch=32, lanes=96, waves=[
        dict(name="one43c", target="one", epochs=1, order=1, configs=all_of(one_c, 3)),
        dict(name="one43d", target="one", epochs=1, order=2, select=("one43c", 4), lanes=FS(11, 12, 13, 14))]),
    dict(name="small14n", plan="6v 10v P 14*3 14v*4", batch=32, lanes=36, waves=[
        dict(name="small14nb", target="small", epochs=15, order=3, configs=all_of(small_n, 2)),
        dict(name="small14nc", target="small", epochs=15, order=7, select=("small14nb", 3), lanes=FS(11, 12))]),
    dict(name="small14", plan="8v 12v P 14*3 14v*4", batch=32, lanes=51, waves=[
        dict(name="small14b", target="small", epochs=15, order=4, configs=all_of(small_w, 2)),
        dict(name="small14c", target="small", epochs=15, order=9, select=("small14b", 4), lanes=FS(11, 12))]),
    dict(name="fast44", plan="10v 16v P 44 44 44v*3", batch=64, lanes=48, elastic=True, waves=[
        dict(name="fast44b", target="fast", epochs=5, order=5, configs=all_of(fast_b, 2)),
        dict(name="fast44c", target="fast", epochs=5, order=6, select=("fast44b", 2), lanes=FS(11, 12, 13, 14))]),
    dict(name="full43", plan="12v 20v P 43 43v*4", batch=64, lanes=42, elastic=True, waves=[
        dict(name="full43b", target="full", epochs=15, order=8, configs=all_of(full_b, 2)),
        dict(name="full43c", target="full", epochs=15, order=10, select=("full43b", 3), lanes=FS(11, 12))]),
]
for s in SHAPES:
    for w in s["waves"]:
        w.setdefault("configs", s["waves"][0]["configs"])  # replaced once the wave it selects from has run
