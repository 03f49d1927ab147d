import json, math, time, os, torch
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False
torch.set_grad_enabled(False)
DEV = 'cuda' if torch.cuda.is_available() else 'cpu'
try:
    import triton, triton.language as tl
    HAVE = DEV == 'cuda' or os.environ.get('TRITON_INTERPRET')
except Exception:
    HAVE = False

def sync():
    if DEV == 'cuda': torch.cuda.synchronize()

# ---------------------------------------------------------------- model
class Model: pass

def rope_tables(cfg, T):
    hd = cfg['head_dim']; rs = cfg['rope_scaling']
    inv = 1.0 / (cfg['rope_theta'] ** (torch.arange(0, hd, 2, dtype=torch.float64) / hd))
    L = rs['original_max_position_embeddings']; lo, hi, f = rs['low_freq_factor'], rs['high_freq_factor'], rs['factor']
    wl = 2 * math.pi / inv
    sm = (L / wl - lo) / (hi - lo)
    inv = torch.where(wl > L / lo, inv / f, torch.where(wl < L / hi, inv, (1 - sm) * inv / f + sm * inv))
    t = torch.arange(T, dtype=torch.float64)[:, None] * inv[None]
    t = torch.cat([t, t], -1)
    return t.cos().float().to(DEV), t.sin().float().to(DEV)

def load(tensors, cfg, T=1024):
    m = Model(); m.cfg = cfg
    g = lambda n: tensors[n].float().to(DEV)
    m.E = g('model.embed_tokens.weight'); m.nf = g('model.norm.weight'); m.L = []
    for i in range(cfg['num_hidden_layers']):
        p = f'model.layers.{i}.'
        q, k, v = (g(p + f'self_attn.{x}_proj.weight') for x in 'qkv')
        m.L.append(dict(n1=g(p + 'input_layernorm.weight'), n2=g(p + 'post_attention_layernorm.weight'),
            qkv=torch.cat([q, k, v]), o=g(p + 'self_attn.o_proj.weight'),
            gu=torch.cat([g(p + 'mlp.gate_proj.weight'), g(p + 'mlp.up_proj.weight')]), d=g(p + 'mlp.down_proj.weight')))
    m.cos, m.sin = rope_tables(cfg, T); m.headM = None; m.embM = None
    return m

def clone(m):
    n = Model(); n.__dict__.update(m.__dict__); n.L = [dict(l) for l in m.L]; return n

def rms(h, w): return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-5) * w

def rot(x): a, b = x.chunk(2, -1); return torch.cat([-b, a], -1)

def attn(m, x, Wqkv):
    c = m.cfg; H, K, hd = c['num_attention_heads'], c['num_key_value_heads'], c['head_dim']
    out = torch.empty(x.shape[0], x.shape[1], H * hd, device=x.device)
    T = x.shape[1]; cos, sin = m.cos[:T], m.sin[:T]
    mask = torch.full((T, T), -1e30, device=x.device).triu(1)
    for i in range(0, x.shape[0], 32):
        y = x[i:i + 32] @ Wqkv.T
        q, k, v = y.split([H * hd, K * hd, K * hd], -1)
        sh = lambda z, n: z.view(z.shape[0], T, n, hd).transpose(1, 2)
        q, k, v = sh(q, H), sh(k, K), sh(v, K)
        q = q * cos + rot(q) * sin; k = k * cos + rot(k) * sin
        k = k.repeat_interleave(H // K, 1); v = v.repeat_interleave(H // K, 1)
        s = (q @ k.transpose(-1, -2)).mul_(hd ** -0.5).add_(mask)
        out[i:i + 32] = (s.softmax(-1) @ v).transpose(1, 2).reshape(y.shape[0], T, H * hd)
    return out

def act(x2, Wgu):
    a, b = (x2 @ Wgu.T).chunk(2, -1); return torch.nn.functional.silu(a) * b

def layer(m, l, h):
    h = h + attn(m, rms(h, l['n1']), l['qkv']) @ l['o'].T
    return h + act(rms(h, l['n2']), l['gu']) @ l['d'].T

def embed(m, ids):
    h = m.E[ids]; return h if m.embM is None else h @ m.embM

def hidden(m, ids):
    h = embed(m, ids)
    for l in m.L: h = layer(m, l, h)
    return h

def logits(m, h):
    x = rms(h, m.nf)
    if m.headM is not None: x = x @ m.headM
    return x @ m.E.T

class Eval:
    def __init__(s, m, wins, nkl, cal, ncal):
        s.w = torch.tensor(wins, device=DEV); s.nkl = nkl; s.c = torch.tensor(cal[:ncal] if ncal else cal, device=DEV)
        s.ref = s.lp(m, s.w[:nkl]); s.refc = s.lp(m, s.c)
    def lp(s, m, ids):
        h = hidden(m, ids)
        return torch.cat([torch.log_softmax(logits(m, h[i:i + 4]), -1) for i in range(0, len(h), 4)])
    def kl(s, m, ids, ref):
        h = hidden(m, ids); t = 0.; top = 0.
        for i in range(0, len(h), 4):
            q = torch.log_softmax(logits(m, h[i:i + 4]), -1); r = ref[i:i + 4]
            t += (r.exp() * (r - q)).sum(-1).double().sum().item(); top += (r.argmax(-1) == q.argmax(-1)).sum().item()
        n = ids.numel(); return t / n, top / n
    def klc(s, m): return s.kl(m, s.c, s.refc)[0]
    def __call__(s, m, ppl=True):
        k, top = s.kl(m, s.w[:s.nkl], s.ref)
        r = dict(kl=k, top1=top)
        if ppl:
            t = 0.; n = 0
            for i in range(0, len(s.w), 14):
                h = hidden(m, s.w[i:i + 14])
                for j in range(0, len(h), 2):
                    q = torch.log_softmax(logits(m, h[j:j + 2, :-1]), -1); y = s.w[i + j:i + j + 2, 1:]
                    t -= q.gather(-1, y[..., None]).double().sum().item(); n += y.numel()
            r['ppl'] = math.exp(t / n)
        return r

# ---------------------------------------------------------------- formats
class Fmt:
    """b bits, g group (0 = row), sym; lev: list of levels (codebook, scaled), else uniform"""
    def __init__(s, b, g, sym=True, lev=None, sbits=16):
        s.b, s.g, s.sym, s.lev, s.sbits = b, g, sym, lev, sbits
    def bits(s, C):
        g = s.g or C
        if s.sbits == 8: return s.b + (8 + (0 if s.sym or s.lev else s.b)) / g + 16 / C
        return s.b + (s.sbits + (0 if s.sym or s.lev else s.b)) / g
    def name(s): return f"{'cb' if s.lev else ''}{s.b}{'s' if s.sym or s.lev else 'a'}g{s.g}{'q8' if s.sbits == 8 else ''}"
    def rng(s): return (-(1 << (s.b - 1)), (1 << (s.b - 1)) - 1) if s.sym else (0, (1 << s.b) - 1)

def qv(x, z, f):
    """nearest level of x (= w/s), zero point z"""
    if f.lev:
        L = f.lev; v = torch.full_like(x, L[0])
        for i in range(len(L) - 1): v = torch.where(x > (L[i] + L[i + 1]) / 2, torch.full_like(x, L[i + 1]), v)
        return v
    lo, hi = f.rng(); return torch.minimum(torch.maximum(torch.floor(x + 0.5), lo - z), hi - z)

f16 = lambda s: s.half().float()
def safe(s):
    s = f16(s); return torch.where(s.abs() < 6e-8, torch.full_like(s, 6e-8), s)

def rs(S, f):
    if f.sbits != 8: return S
    d = f16(S.abs().amax(1, keepdim=True) / 127).clamp_min(6e-8); q = torch.round(S / d)
    return torch.where(q == 0, torch.ones_like(q), q) * d

def fit(W, f, mode, M=None):
    """W [R,C] -> S,Z [R,nG]. mode absmax|signed|grid. M metric: None, [C] diag, or [nG,g,g]."""
    R, C = W.shape; g = f.g or C; n = C // g; w = W.view(R, n, g)
    lo, hi = f.rng()
    def loss(v, s):
        e = w - v * s[..., None]
        if M is None: return e.pow(2).sum(-1)
        if M.dim() == 1: return (e.pow(2) * M.view(n, g)).sum(-1)
        return ((e.transpose(0, 1) @ M).transpose(0, 1) * e).sum(-1)
    am = w.abs().amax(-1)
    Z0 = torch.zeros_like(am)
    if f.sym or f.lev:
        mx = w.amax(-1); mn = w.amin(-1); sg = torch.where(mx > -mn, -1.0, 1.0)
        top = max(abs(x) for x in f.lev) if f.lev else None
        if mode == 'absmax': return safe(am / (top or hi + 0.5)), Z0
        if mode == 'signed': return safe(sg * am / (top or -lo)), Z0
        base = am / (top or -lo)
        p = torch.linspace(0.40 if f.b > 3 else 0.25, 1.15, 40).tolist()
        symm = bool(f.lev) and all(abs(a + b) < 1e-6 for a, b in zip(f.lev, f.lev[::-1]))
        cands = [(x * y, 0) for x in p for y in ((1,) if symm else (1, -1))]
        base = base * sg
    else:
        mx = w.amax(-1).clamp_min(0); mn = w.amin(-1).clamp_max(0)
        s0 = (mx - mn) / hi; zc = torch.round(-mn / s0.clamp_min(1e-12)).clamp(0, hi)
        if mode in ('absmax', 'signed'): return safe(s0), zc
        base = s0; p = torch.linspace(0.5 if f.b > 3 else 0.35, 1.05, 24).tolist()
        ctr = (mx + mn) / 2 / s0.clamp_min(1e-12)
        cands = [(x, k) for x in p for k in (-1, 0, 1)]
    best = torch.full_like(am, float('inf')); S = base.clone(); Z = Z0.clone()
    for x, k in cands:
        s = safe(base * x)
        z = Z0 if (f.sym or f.lev) else (torch.round(hi / 2 - ctr / x) + k).clamp(0, hi)
        v = qv(w / s[..., None], z[..., None], f); l = loss(v, s)
        b = l < best; best = torch.where(b, l, best); S = torch.where(b, s, S); Z = torch.where(b, z, Z)
    for _ in range(3):   # alternate codes / closed-form scale
        v = qv(w / S[..., None], Z[..., None], f)
        if M is None: vm = v
        elif M.dim() == 1: vm = v * M.view(n, g)
        else: vm = (v.transpose(0, 1) @ M).transpose(0, 1)
        s = safe((vm * w).sum(-1) / (vm * v).sum(-1).clamp_min(1e-20)); s = torch.where(s.abs() < 1e-6, S, s)
        v = qv(w / s[..., None], Z[..., None], f); l = loss(v, s); b = l < best
        best = torch.where(b, l, best); S = torch.where(b, s, S)
    return rs(S, f), Z

# ---------------------------------------------------------------- kernels
if HAVE:
    @triton.jit
    def _block(W, U, S, Z, V0, V, E, R, lo, hi, LEV, NL: tl.constexpr, CD: tl.constexpr, B: tl.constexpr, RB: tl.constexpr):
        r = tl.program_id(0) * RB + tl.arange(0, RB); c = tl.arange(0, B)
        ix = r[:, None] * B + c[None, :]; mk = (r < R)[:, None]
        w = tl.load(W + ix, mask=mk, other=0.); s = tl.load(S + ix, mask=mk, other=1.); z = tl.load(Z + ix, mask=mk, other=0.)
        v = tl.load(V0 + ix, mask=mk, other=0.); e = tl.zeros([RB, B], tl.float32)
        for j in range(B):
            m = (c == j)[None, :]
            u = tl.load(U + j * B + c); d = tl.sum(tl.where(c == j, u, 0.), 0)
            wj = tl.sum(tl.where(m, w, 0.), 1); sj = tl.sum(tl.where(m, s, 0.), 1); zj = tl.sum(tl.where(m, z, 0.), 1)
            if CD:
                vj = tl.sum(tl.where(m, v, 0.), 1); t = (vj * sj + wj / d) / sj
            else:
                t = wj / sj
            if NL > 0:
                q = tl.zeros([RB], tl.float32) + tl.load(LEV)
                for i in tl.static_range(NL - 1):
                    a = tl.load(LEV + i); b = tl.load(LEV + i + 1); q = tl.where(t > (a + b) * 0.5, b, q)
            else:
                q = tl.minimum(tl.maximum(tl.floor(t + 0.5), lo - zj), hi - zj)
            if CD: err = (q - vj) * sj
            else: err = (wj - q * sj) / d
            w = w - err[:, None] * u[None, :]
            v = tl.where(m, q[:, None], v); e = tl.where(m, err[:, None], e)
        tl.store(V + ix, v, mask=mk); tl.store(E + ix, e, mask=mk)

def block(w, U, s, z, v0, f, cd):
    """w [R,B]: weights (gptq) or residual gradient (cd). returns V, E"""
    R, B = w.shape; lo, hi = f.rng()
    if HAVE:
        w, U, s, z, v0 = (x.contiguous() for x in (w, U, s, z, v0))
        V = torch.empty_like(w); E = torch.empty_like(w)
        lev = torch.tensor(f.lev or [0.], device=w.device)
        _block[(triton.cdiv(R, 4),)](w, U, s, z, v0, V, E, R, float(lo), float(hi), lev, len(f.lev or []), cd, B, 4, num_warps=1)
        return V, E
    w = w.clone(); V = v0.clone(); E = torch.zeros_like(w)
    for j in range(B):
        d = U[j, j]; sj = s[:, j]; vj = V[:, j].clone()
        t = vj + w[:, j] / d / sj if cd else w[:, j] / sj
        q = qv(t, z[:, j], f)
        err = (q - vj) * sj if cd else (w[:, j] - q * sj) / d
        w -= err[:, None] * U[j][None]
        V[:, j] = q; E[:, j] = err
    return V, E

def expand(S, g): return S.repeat_interleave(g, 1)

def gptq(W, G, f, S, Z, damp=0.01, order=True, dyn=None, B=128):
    """returns V [R,C]; S,Z static unless dyn=(mode, metricfn) (then storage order, blocks of group size)"""
    R, C = W.shape; g = f.g or C
    H = G.double().clone(); dg = H.diagonal(); H.diagonal().add_(damp * dg.mean())
    dead = dg <= 0
    if order: p = torch.argsort(G.diagonal(), descending=True, stable=True)
    else: p = torch.arange(C, device=W.device)
    Hp = H[p][:, p]
    L = torch.linalg.cholesky(Hp); Hi = torch.cholesky_inverse(L); U = torch.linalg.cholesky(Hi, upper=True).float()
    w = W[:, p].clone(); V = torch.empty_like(w)
    Se, Ze = expand(S, g)[:, p], expand(Z, g)[:, p]
    if dyn: B = min(g, 512); S = S.clone(); Z = Z.clone()
    for a in range(0, C, B):
        b = min(a + B, C)
        if dyn and a % g == 0:
            s, z = fit(w[:, a:a + g].contiguous(), Fmt(f.b, 0, f.sym, f.lev), dyn[0], dyn[1](a // g))
            S[:, a // g] = s[:, 0]; Z[:, a // g] = z[:, 0]; Se[:, a:a + g] = s; Ze[:, a:a + g] = z
        v, e = block(w[:, a:b], U[a:b, a:b], Se[:, a:b], Ze[:, a:b], torch.zeros_like(w[:, a:b]), f, False)
        V[:, a:b] = v
        if b < C: w[:, b:] -= e @ U[a:b, b:]
    out = torch.empty_like(V); out[:, p] = V
    return out, S, Z

def cd(W, G, f, S, Z, V, sweeps=1, B=128):
    g = f.g or W.shape[1]; Se, Ze = expand(S, g), expand(Z, g); C = W.shape[1]
    for _ in range(sweeps):
        r = (W - V * Se) @ G
        for a in range(0, C, B):
            b = min(a + B, C)
            v, e = block(r[:, a:b], G[a:b, a:b], Se[:, a:b], Ze[:, a:b], V[:, a:b], f, True)
            V[:, a:b] = v; r -= e @ G[a:b]
    return V

def refine(W, G, f, S, V):
    R, C = W.shape; g = f.g or C; n = C // g
    T = torch.einsum('rng,ngc->rnc', V.view(R, n, g), G.view(n, g, C))
    A = torch.einsum('rncg,rcg->rnc', T.view(R, n, n, g), V.view(R, n, g)).double()
    b = (V * (W @ G)).view(R, n, g).sum(-1).double()
    dA = A.diagonal(dim1=-2, dim2=-1); A.diagonal(dim1=-2, dim2=-1).add_(1e-6 * dA.mean(-1, keepdim=True) + 1e-12)
    s = torch.linalg.solve(A, b[..., None])[..., 0].float()
    return rs(torch.where((dA > 0), safe(s), S), f)

def qloss(E, G): return ((E @ G) * E).sum().item()

def quantize(W, G, f, o):
    """-> Q, info. W target [R,C], G f32 [C,C] normalised. o: options"""
    R, C = W.shape; g = f.g or C; n = C // g
    damp = o.get('damp', 0.01); mode = o.get('fit', 'grid'); metric = o.get('metric', 'diag')
    Gd = G.clone(); dm = G.diagonal().mean(); Gd.diagonal().add_(damp * dm)
    if mode == 'grid':
        if metric == 'diag': M = Gd.diagonal().contiguous()
        elif metric == 'none': M = None
        elif metric in ('block', 'schur', 'hinv'):
            ix = torch.arange(C, device=W.device).view(n, g)
            if metric == 'block': M = Gd[ix[:, :, None], ix[:, None, :]].contiguous()
            else:
                Hi = torch.cholesky_inverse(torch.linalg.cholesky(Gd.double()))
                if metric == 'hinv': M = (1 / Hi.diagonal()).float()
                else:
                    X = Hi[ix[:, :, None], ix[:, None, :]]; M = torch.cholesky_inverse(torch.linalg.cholesky(X)).float()
    else: M = None
    meth = o.get('method', 'gptq')
    S, Z = fit(W.contiguous(), f, mode, M)
    if meth == 'rtn': V = qv(W.view(R, n, g) / S[..., None], Z[..., None], f).view(R, C)
    else:
        dyn = None
        if o.get('dyn'):
            dyn = (mode, (lambda i: None if M is None else (M.view(n, g)[i].contiguous() if M.dim() == 1 else M[i:i + 1])))
        V, S, Z = gptq(W, G, f, S, Z, damp, o.get('order', True) and not dyn, dyn)
    cdG = Gd if o.get('cddamp', True) else G
    for _ in range(o.get('refine0', 0)): S = refine(W, cdG, f, S, V)
    for _ in range(o.get('rounds', 0)):
        if o.get('ref', True): S = refine(W, cdG, f, S, V)
        V = cd(W, cdG, f, S, Z, V, o.get('sweeps', 1))
    if o.get('lastref'): S = refine(W, cdG, f, S, V)
    return V * expand(S, g)

# ---------------------------------------------------------------- pipeline
UNITS = ('qkv', 'o', 'gu', 'd')
def gram(a, b=None, w=None):
    """a^T b / tokens in f64, chunked. a [.., C]"""
    a = a.reshape(-1, a.shape[-1]); b = a if b is None else b.reshape(-1, b.shape[-1]); w = None if w is None else w.reshape(-1)
    G = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64, device=a.device)
    for i in range(0, len(a), 16384):
        x = a[i:i + 16384].double()
        if w is not None: x = x * w[i:i + 16384, None]
        G += x.T @ b[i:i + 16384].double()
    return G / (len(a) if w is None else w.double().sum())

def run(fp, ids, spec, o):
    """quantize a model sequentially. spec(l, unit) -> Fmt or None. o options:
    tseq: true sequential inside the layer; corr alpha: target correction; resid: o/d correct the residual stream too;
    tw: token weight exponent for o,d; fpgram: statistics from the unquantized model; awq"""
    m = clone(fp); ids = torch.as_tensor(ids, device=DEV)
    tseq, al, resid = o.get('tseq', True), o.get('corr', 0.), o.get('resid', 0.)
    h = embed(fp, ids); hf = h.clone() if (al or resid) else None
    info = {}; bits = wn = 0.; relt = []
    def do(i, u, W, x, xf, D, tw=None):
        nonlocal bits, wn
        f = spec(i, u)
        if f is None: return W
        G = gram(x, None, tw)
        T = W
        if al or resid:
            Gr = G.clone(); Gr.diagonal().add_(o.get('cdamp', 0.01) * G.diagonal().mean())
            P = torch.zeros(W.shape, dtype=torch.float64, device=DEV)
            a_ = al if not isinstance(al, dict) else al.get(u, 0)
            if a_: P += a_ * (W.double() @ gram(xf - x, x, tw))
            if D is not None and resid: P += resid * gram(D, x, tw)
            T = (W.double() + torch.linalg.solve(Gr, P.T).T).float()
        G = G.float()
        Q = quantize(T, G, f, o)
        e = qloss(W - Q, G); y = qloss(W, G)
        info[(i, u)] = dict(loss=e, rel=e / max(y, 1e-30)); relt.append(e / max(y, 1e-30))
        bits += f.bits(W.shape[1]) * W.numel(); wn += W.numel()
        return Q
    for i, l in enumerate(fp.L):
        q = m.L[i]
        if o.get('awq'): l = awq_layer(m, l, h, o, spec, i); q.update(l)
        x = rms(h, l['n1']); xf = rms(hf, fp.L[i]['n1']) if hf is not None else None
        q['qkv'] = do(i, 'qkv', l['qkv'], x, xf, None)
        a_q = attn(m, x, q['qkv']); a = a_q if tseq else attn(m, x, l['qkv'])
        af = attn(m, xf, fp.L[i]['qkv']) if hf is not None else None
        D = (hf - h) if resid else None
        def tokw(hh): return hh.pow(2).mean(-1).clamp_min(1e-12).pow(-o['tw']) if o.get('tw') else None
        q['o'] = do(i, 'o', l['o'], a, af, D, tokw(h + a @ l['o'].T) if o.get('tw') else None)
        h1 = h + a_q @ q['o'].T; hs = h1 if tseq else h + a @ l['o'].T
        h1f = hf + af @ fp.L[i]['o'].T if hf is not None else None
        x = rms(hs, l['n2']); xf = rms(h1f, fp.L[i]['n2']) if hf is not None else None
        q['gu'] = do(i, 'gu', l['gu'], x, xf, None)
        if tseq: b = act(x, q['gu'])
        else: b = act(x, l['gu'])
        bf = act(xf, fp.L[i]['gu']) if hf is not None else None
        D = (h1f - hs) if resid else None
        q['d'] = do(i, 'd', l['d'], b, bf, D, tokw(hs + b @ l['d'].T) if o.get('tw') else None)
        if not tseq: b = act(rms(h1, l['n2']), q['gu'])
        h = h1 + b @ q['d'].T
        if hf is not None: hf = h1f + bf @ fp.L[i]['d'].T
    if o.get('nfcorr') and hf is not None:   # final norm gain, closed form in hidden space weighted by E^T E
        x = rms(h, torch.ones_like(m.nf)); y = rms(hf, fp.nf); EE = (m.E.T @ m.E).double()
        A = gram(x) * EE; b = (gram(x, y) * EE).sum(1); m.nf = f16(torch.linalg.solve(A, b).float())
    return m, info, bits / max(wn, 1), sum(relt) / max(len(relt), 1)

# ---------------------------------------------------------------- awq
def awq_layer(m, l, h, o, spec, i):
    """scale search per distinct input: qkv (norm1), gu (norm2), d (up rows), o (v rows, shared over the query heads of a kv head)"""
    l = dict(l); duo = o['awq'] == 'duo'
    ro = dict(method='rtn', fit=o.get('awqfit', 'signed'), metric='diag')
    def search(W, x, f, share=None):
        G = gram(x).float(); xm = x.reshape(-1, x.shape[-1]).abs().mean(0); wm = W.abs().mean(0)
        if share is not None: xm, wm = share(xm), share(wm)
        best = (qloss(W - quantize(W, G, f, ro), G), None)
        n = 20
        for k in range(n + (1 if duo else 0)):
            r = k / n
            s = xm.clamp_min(1e-8).pow(r)
            if duo: s = s / wm.clamp_min(1e-8).pow(1 - r)
            elif k == 0: continue
            s = s / (s.max() * s.min()).sqrt(); s = s.clamp(1e-4, 1e4)
            Q = quantize(W * s, G / (s[:, None] * s[None]), f, ro) / s
            e = qloss(W - Q, G)
            if e < best[0]: best = (e, s)
        return best[1]
    c = m.cfg; H, K, hd = c['num_attention_heads'], c['num_key_value_heads'], c['head_dim']
    x = rms(h, l['n1'])
    if spec(i, 'qkv'):
        s = search(l['qkv'], x, spec(i, 'qkv'))
        if s is not None: l['qkv'] = l['qkv'] * s; l['n1'] = f16(l['n1'] / s)
    x = rms(h, l['n1']); a = attn(m, x, l['qkv'])
    if spec(i, 'o') and o.get('awqo', True):
        sh = lambda t: t.view(K, H // K, hd).mean(1, keepdim=True).expand(K, H // K, hd).reshape(-1)
        s = search(l['o'], a, spec(i, 'o'), sh)
        if s is not None:
            sv = s.view(K, H // K, hd)[:, 0].reshape(-1)
            l['o'] = l['o'] * s; l['qkv'] = l['qkv'].clone(); l['qkv'][-K * hd:] /= sv[:, None]; a = a / s
    h1 = h + a @ l['o'].T; x = rms(h1, l['n2'])
    if spec(i, 'gu'):
        s = search(l['gu'], x, spec(i, 'gu'))
        if s is not None: l['gu'] = l['gu'] * s; l['n2'] = f16(l['n2'] / s)
    b = act(rms(h1, l['n2']), l['gu'])
    if spec(i, 'd'):
        s = search(l['d'], b, spec(i, 'd'))
        if s is not None:
            l['d'] = l['d'] * s; l['gu'] = l['gu'].clone(); l['gu'][l['gu'].shape[0] // 2:] /= s[:, None]
    return l

# ---------------------------------------------------------------- rotation
def hadamard(n):
    H = torch.ones(1, 1, dtype=torch.float64)
    while H.shape[0] < n: H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return H.to(DEV) / n ** 0.5

def rotate(fp, r1='had', r2='had', seed=0):
    m = clone(fp); c = m.cfg; H, K, hd = c['num_attention_heads'], c['num_key_value_heads'], c['head_dim']; hs = c['hidden_size']
    gen = torch.Generator().manual_seed(seed)
    def orth(kind, n):
        if kind == 'rand': return torch.linalg.qr(torch.randn(n, n, generator=gen, dtype=torch.float64))[0].to(DEV)
        sgn = torch.sign(torch.randn(n, generator=gen, dtype=torch.float64)).to(DEV)
        return sgn[:, None] * hadamard(n)
    if r1:
        R = orth(r1, hs); m.embM = R.float(); m.headM = (R.T @ torch.diag(fp.nf.double())).float(); m.nf = torch.ones_like(fp.nf)
        for l in m.L:
            for n, u in (('n1', 'qkv'), ('n2', 'gu')):
                l[u] = ((l[u].double() * l[n].double()) @ R).float(); l[n] = torch.ones_like(l[n])
            for u in ('o', 'd'): l[u] = (R.T @ l[u].double()).float()
    if r2:
        R = orth(r2, hd)
        for l in m.L:
            v = l['qkv'][-K * hd:].double().view(K, hd, -1); l['qkv'] = l['qkv'].clone()
            l['qkv'][-K * hd:] = torch.einsum('ab,kac->kbc', R, v).reshape(K * hd, -1).float()
            l['o'] = (l['o'].double().view(-1, H, hd) @ R).reshape(l['o'].shape).float()
    return m

def outliers(fp, factor=30., seed=0):
    m = clone(fp); gen = torch.Generator().manual_seed(seed); hs = m.cfg['hidden_size']; k = max(1, round(hs * 0.02))
    for l in m.L:
        for n, u in (('n1', 'qkv'), ('n2', 'gu')):
            ix = torch.randperm(hs, generator=gen)[:k].to(DEV); s = torch.ones(hs, device=DEV); s[ix] = factor
            l[n] = l[n] * s; l[u] = l[u] / s
    return m

# ---------------------------------------------------------------- allocation
def allocate(opts, budget):
    """opts: {unit: [(bits_total, cost, payload)]}; minimise cost s.t. sum bits <= budget: Lagrangian bisection + greedy fill"""
    def pick(lam): return {u: min(o, key=lambda t: t[1] + lam * t[0]) for u, o in opts.items()}
    lo, hi = 0., 1e6
    mx = max(t[1] for o in opts.values() for t in o); bb = min(t[0] for o in opts.values() for t in o)
    hi = mx / bb * 100
    for _ in range(100):
        mid = (lo + hi) / 2
        if lo > 0 and hi / lo > 4: mid = (lo * hi) ** .5
        elif lo == 0: mid = hi / 8
        if sum(t[0] for t in pick(mid).values()) <= budget: hi = mid
        else: lo = mid
        if lo == 0 and hi < 1e-30: break
    sel = pick(hi); used = sum(t[0] for t in sel.values())
    while True:
        best = None
        for u, o in opts.items():
            for t in o:
                db = t[0] - sel[u][0]; dc = sel[u][1] - t[1]
                if dc > 0 and db > 0 and used + db <= budget and (best is None or dc / db > best[0]): best = (dc / db, u, t)
                elif dc > 0 and db <= 0: best = (1e30, u, t)
        if best is None: break
        used += best[2][0] - sel[best[1]][0]; sel[best[1]] = best[2]
    return sel, used

def collect(fp, ids):
    """Gram of every unit's input, unquantized model"""
    ids = torch.as_tensor(ids, device=DEV); h = embed(fp, ids); G = {}
    for i, l in enumerate(fp.L):
        x = rms(h, l['n1']); G[i, 'qkv'] = gram(x).float(); a = attn(fp, x, l['qkv']); G[i, 'o'] = gram(a).float(); h = h + a @ l['o'].T
        x = rms(h, l['n2']); G[i, 'gu'] = gram(x).float(); b = act(x, l['gu']); G[i, 'd'] = gram(b).float(); h = h + b @ l['d'].T
    return G

def table(fp, G, fmts, o):
    T = {}
    for (i, u), g in G.items():
        W = fp.L[i][u]
        for f in fmts:
            T[i, u, f.name()] = (f.bits(W.shape[1]) * W.numel(), qloss(W - quantize(W, g, f, o), g))
    return T

def sensitivity(fp, G, ev, f, o):
    """KL on calibration windows when one unit alone is quantized, over its Gram loss"""
    S = {}
    for (i, u), g in G.items():
        m = clone(fp); W = fp.L[i][u]; Q = quantize(W, g, f, o); m.L[i][u] = Q
        kl = ev.klc(m); S[i, u] = (kl / qloss(W - Q, g), kl)
    return S
