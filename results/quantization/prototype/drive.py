"""python drive.py STAGE.py worker nworkers seconds outdir"""
import sys, os, fcntl, runpy, traceback
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lib import *
from safetensors.torch import load_file
stage, k, n, limit, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5]
t00 = time.time()
D = os.environ['MODELDIR']; cfg = json.load(open(D + '/config.json')); P = os.environ['PEERS']
fp = load(load_file(D + '/model.safetensors'), cfg)
cal = json.load(open(P + '/calibration.json'))['sequences']; win = json.load(open(P + '/windows.json'))['windows']
if os.environ.get('SMALL'):
    V = cfg['vocab_size']; cal = [[t % V for t in s[:64]] for s in cal[:8]]; win = [[t % V for t in s[:64]] for s in win[:4]]
ncal = 32 if DEV == 'cuda' else 4
ev = Eval(fp, win, 30 if DEV == 'cuda' else 4, cal[::4], ncal)
t0 = time.time()
if k == 0: print('ready', round(t0 - t00, 1), ev(fp), flush=True)
FMT = {}
def mk(a):
    if isinstance(a, Fmt): return a
    return Fmt(*a[:2], **(a[2] if len(a) > 2 else {}))
BASES = {}
def base(b):
    key = json.dumps(b)
    if key not in BASES:
        BASES[key] = fp if b is None else rotate(fp, *b[1:]) if b[0] == 'rot' else outliers(fp, *b[1:])
    return BASES[key]
STATE = {}
def alloc_state(d, prep=False):
    """sensitivity and loss table, cached in a file"""
    p = d.get('file', '/tmp/alloc.pt')
    if p in STATE: return STATE[p]
    while not os.path.exists(p) and not prep:
        time.sleep(.5)
        if time.time() - t00 > limit + 40: raise RuntimeError('no table')
    if not os.path.exists(p):
        G = collect(fp, cal); nc = d.get('nc', ncal); ev2 = ev if nc == ncal else Eval(fp, win, 1, cal[::len(cal) // nc], nc); fm = [mk(a) for a in d['fmts']]; o = d.get('o', {})
        t = time.time(); S = {x: sensitivity(fp, G, ev2, mk(x), o) for x in d.get('sf', [(3, 128, {'sym': False}), (2, 64, {'sym': False})]) for x in [mk(x)]}
        S = {f.name(): v for f, v in S.items()}; ts = time.time() - t
        t = time.time(); T = table(fp, G, fm, o); tt = time.time() - t
        torch.save((S, T, ts, tt), p + '.tmp'); os.rename(p + '.tmp', p); print('alloc', p, round(ts, 1), round(tt, 1), flush=True)
    STATE[p] = torch.load(p, weights_only=False); return STATE[p]
def mixed(d):
    S, T, _, _ = alloc_state(d); s = S[d.get('sens', next(iter(S)))]
    fm = {mk(a).name(): mk(a) for a in d['use']} if 'use' in d else {mk(a).name(): mk(a) for a in d['fmts']}
    opts = {}; W = 0
    pw = d.get('pow', 1.)
    for (i, u) in s:
        w = fp.L[i][u].numel(); W += w
        sv = s[i, u][0] if d.get('by', 'sens') == 'sens' else 1.
        opts[i, u] = [(T[i, u, nm][0], max(sv, 1e-12) ** pw * T[i, u, nm][1], nm) for nm in fm]
    sel, used = allocate(opts, d['bpw'] * W)
    return (lambda i, u: fm[sel[i, u][2]]), {f'{i}.{u}': t[2] for (i, u), t in sel.items()}, sum(t[1] for t in sel.values()), used / W
def write(r):
    with open(out + '/results.jsonl', 'a') as f:
        fcntl.flock(f, fcntl.LOCK_EX); f.write(json.dumps(r) + '\n')
lock = out + '/next'
def take():
    with open(lock, 'a+') as f:
        fcntl.flock(f, fcntl.LOCK_EX); f.seek(0); i = int(f.read() or 0); f.truncate(0); f.write(str(i + 1)); f.flush(); return i
CON = runpy.run_path(stage)['CONFIGS']
while True:
    i = take()
    if i >= len(CON): break
    if time.time() - t00 > limit: print('time out at', i, 'of', len(CON), flush=True); break
    c = CON[i]; t = time.time()
    try:
        if c.get('prep'): alloc_state(c['prep'], True); continue
        x = {}
        if 'mix' in c: spec, sel, pred, b = mixed(c['mix']); x = dict(sel=sel, pred=pred, bsel=b)
        elif 'by' in c: fm = {u: mk(a) for u, a in c['by'].items()}; spec = lambda l, u: fm[u]
        else: f = mk(c['f']); spec = lambda l, u: f
        m, info, b, rel = run(base(c.get('base')), cal[::c.get('step', 1)], spec, c.get('o', {}))
        r = ev(m); sync()
        L = sum(v['loss'] for v in info.values())
        r = dict(name=c['name'], bits=round(b, 4), **r, klcal=ev.klc(m), rel=rel, loss=L, s=round(time.time() - t, 2), o=c.get('o', {}), f=str(c.get('f', c.get('mix', c.get('by')))), **x)
        write(r)
        print(f"{r['name']:44s} {b:.3f} kl {r['kl']:.5f} cal {r['klcal']:.5f} ppl {r['ppl']:.3f} rel {rel:.5f} {r['s']}" + (f" pred {x['pred']:.4f}" if x else ''), flush=True)
    except Exception:
        print('FAIL', c['name'], traceback.format_exc()[-400:], flush=True)
