A = {'sym': False}
F = dict(s4g128=(4, 128), s4g32=(4, 32), a3g128=(3, 128, A), a2g64=(2, 64, A))
def cfgs(fn):
    f = F[fn]; L = []
    def c(n, o, **k): L.append(dict(name=f'{fn} {n}', f=f, o=o, **k))
    G = dict(fit='grid', metric='schur')
    c('gptq schur order', G)
    c('rtn absmax', dict(method='rtn', fit='absmax'))
    c('gptq absmax dyn', dict(fit='absmax', dyn=True))
    c('gptq schur corr.5 rounds2', dict(G, corr=.5, rounds=2))
    c('gptq schur corr.5 resid.5 rounds2', dict(G, corr=.5, resid=.5, rounds=2))
    c('gptq schur corr1 resid1 rounds2', dict(G, corr=1., resid=1., rounds=2))
    c('gptq schur rounds2', dict(G, rounds=2))
    for x in (.25, .5, .75, 1.): c(f'gptq schur corr{x}', dict(G, corr=x))
    for x in (.25, .5, .75, 1.): c(f'gptq schur corr{x} resid{x}', dict(G, corr=x, resid=x))
    c('gptq schur tw.5', dict(G, tw=.5)); c('gptq schur tw1', dict(G, tw=1.))
    for m in ('none', 'diag', 'block', 'hinv'): c(f'gptq {m} order', dict(fit='grid', metric=m))
    c('gptq signed order', dict(fit='signed')); c('gptq absmax order', dict(fit='absmax'))
    c('gptq schur noorder', dict(G, order=False)); c('gptq schur dyn', dict(G, dyn=True)); c('gptq diag dyn', dict(fit='grid', metric='diag', dyn=True))
    for x in (.003, .03, .1): c(f'gptq schur damp{x}', dict(G, damp=x))
    c('gptq schur onepass', dict(G, tseq=False))
    c('gptq schur rounds1', dict(G, rounds=1)); c('gptq schur rounds4', dict(G, rounds=4)); c('gptq schur rounds2 noref', dict(G, rounds=2, ref=False)); c('gptq schur refine only', dict(G, refine0=1))
    c('rtn schur rounds6', dict(G, method='rtn', rounds=6))
    c('R1 gptq schur', G, base=['rot', 'had', None]); c('R2 gptq schur', G, base=['rot', None, 'had']); c('R1R2 gptq schur', G, base=['rot', 'had', 'had'])
    c('awq x rtn signed', dict(method='rtn', fit='signed', awq='x')); c('awq duo rtn signed', dict(method='rtn', fit='signed', awq='duo')); c('awq duo rtn grid', dict(method='rtn', metric='diag', awq='duo', awqfit='signed'))
    c('awq duo gptq schur', dict(G, awq='duo'))
    return L
import itertools
CONFIGS = [c for t in itertools.zip_longest(*(cfgs(f) for f in F)) for c in t if c]
S2 = [(3, 128, A), (2, 64, A)]
FM = [(b, g, {'sym': s}) for b in (2, 3, 4, 5, 6) for g in (32, 64, 128) for s in (True, False)]
CONFIGS.insert(8, dict(prep=dict(fmts=FM, sf=S2, o=dict(metric='schur')), name='prep'))
MX = dict(fmts=FM)
BEST = dict(fit='grid', metric='schur', corr=.5, rounds=2)
FMs = [a for a in FM]
for b in (2.5, 3.25, 4.25, 4.63):
    CONFIGS.append(dict(name=f'mix {b} sens3', mix=dict(MX, bpw=b), o=BEST))
    CONFIGS.append(dict(name=f'mix {b} nosens', mix=dict(MX, bpw=b, by='loss'), o=BEST))
    CONFIGS.append(dict(name=f'mix {b} sens2', mix=dict(MX, bpw=b, sens='2ag64'), o=BEST))
