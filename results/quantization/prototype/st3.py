A={'sym':False}; G=dict(fit='grid',metric='hinv'); R=dict(G,rounds=2); K=dict(G,corr=.5,resid=.5); B=dict(K,rounds=2)
CB2=(2,64,dict(lev=[-1.51,-.4528,.4528,1.51])); CB3=(3,64,dict(lev=[-2.152,-1.344,-.756,-.245,.245,.756,1.344,2.152]))
FM=[(b,g,{'sym':s}) for b in (2,3,4,5,6) for g in (64,128) for s in (True,False)]
P1=dict(fmts=FM+[CB2,CB3,(8,128)],sf=[(3,128,A)],o=G,file='/tmp/p1.pt')
P2=dict(fmts=FM+[(8,128)],sf=[(3,128,A)],o=dict(method='rtn',fit='grid',metric='diag'),nc=8,file='/tmp/p2.pt')
C=[dict(name='prep1',prep=P1),dict(name='prep2',prep=P2)]
def c(n,f,o,**k): C.append(dict(name=n,f=f,o=o,**k))
def m(n,P,bpw,o,**k): C.append(dict(name=n,mix=dict(P,bpw=bpw,**k),o=o))
g128,g32=(4,128),(4,32)
c('out rtn absmax s4g128',g128,dict(method='rtn',fit='absmax'),base=['out'])
for a in ('x','duo'):
    for q,n in (('signed','signed'),('grid','grid')):
        for b in (None,['out']):
            if b is None and a+q in('xsigned','duosigned'): continue
            c(f"{'out' if b else 'plain'} awq {a} rtn {n} s4g128",g128,dict(method='rtn',fit=q,metric='diag',awq=a,awqfit='signed'),base=b)
c('out awq duo gptq s4g128',g128,dict(G,awq='duo'),base=['out']); c('out gptq s4g128',g128,G,base=['out'])
c('out awq duo rtn asym g128',(4,128,A),dict(method='rtn',fit='absmax',awq='duo',awqfit='absmax'),base=['out']); c('plain awq duo rtn asym g128',(4,128,A),dict(method='rtn',fit='absmax',awq='duo',awqfit='absmax'))
c('s4g32 gptq hinv',g32,G); c('s4g32 gptq none',g32,dict(fit='grid',metric='none')); c('s4g32 gptq absmax order',g32,dict(fit='absmax')); c('s4g32 gptq hinv rounds2',g32,R)
c('s4g128 onepass corr resid rounds2',g128,dict(B,tseq=False)); c('a3g128 onepass corr resid rounds2',(3,128,A),dict(B,tseq=False))
c('s4g128 hinv order 64 seq',g128,G,step=2); c('s4g128 hinv order 32 seq',g128,G,step=4); c('s4g128 full 32 seq',g128,B,step=4)
for bpw in (3.25,2.5,4.25,4.63):
    m(f'mix1 {bpw} gptq',P1,bpw,G,use=FM)
    m(f'mix1 {bpw} gptq rounds2',P1,bpw,R,use=FM)
for bpw in (3.25,2.5):
    m(f'mix1 {bpw} corr resid',P1,bpw,K,use=FM)
    m(f'mix1 {bpw} full',P1,bpw,B,use=FM)
    m(f'mix1 {bpw} full sym g128 only',P1,bpw,B,use=[(b,128) for b in (2,3,4,5,6)])
    m(f'mix1 {bpw} full widths 2 4 8 g64 g128',P1,bpw,B,use=[(b,g) for b in (2,4) for g in (64,128)]+[(8,128)])
    m(f'mix1 {bpw} gptq widths 2 4 8 g64 g128',P1,bpw,G,use=[(b,g) for b in (2,4) for g in (64,128)]+[(8,128)])
    m(f'mix1 {bpw} full +cb',P1,bpw,B)
    m(f'mix2(rtn table, 8 seq) {bpw} full',P2,bpw,B,use=FM)
    m(f'mix2(rtn table, 8 seq) {bpw} gptq',P2,bpw,G,use=FM)
for bpw in (4.25,4.63):
    m(f'mix1 {bpw} full',P1,bpw,B,use=FM); m(f'mix1 {bpw} gptq sym g128 only',P1,bpw,G,use=[(b,128) for b in (2,3,4,5,6)])
    m(f'mix2(rtn table, 8 seq) {bpw} gptq',P2,bpw,G,use=FM)
    m(f'mix1 {bpw} gptq widths 2 4 8 g64 g128',P1,bpw,G,use=[(b,g) for b in (2,4) for g in (64,128)]+[(8,128)])
m('mix1 2.5 full nfcorr',P1,2.5,dict(B,nfcorr=True),use=FM)
m('mix1 2.5 full alpha.35/.7',P1,2.5,dict(B,corr=.5,resid=.8),use=FM)
m('mix1 2.5 full rounds6',P1,2.5,dict(B,rounds=6),use=FM)
m('mix1 3.25 full rounds6',P1,3.25,dict(B,rounds=6),use=FM)
L=[-7.,-2.,2.,7.]; c('cb2g64 int4 levels 7 2 full',(2,64,dict(lev=L)),B); c('cb2g64 int levels 3 1 full',(2,64,dict(lev=[-3.,-1.,1.,3.])),B)
c('cb3g64 int4 levels 7 4 2 1 full',(3,64,dict(lev=[-7.,-4.,-2.,-1.,1.,2.,4.,7.])),B); c('cb3g64 int levels 9 5.5 3 1 = 18 11 6 2 full',(3,64,dict(lev=[-18.,-11.,-6.,-2.,2.,6.,11.,18.])),B)
c('a2g64 hinv',(2,64,A),G); c('a2g64 R1R2 gptq hinv',(2,64,A),G,base=['rot','had','had']); c('a2g64 R2 gptq hinv',(2,64,A),G,base=['rot',None,'had'])
NF4=[-1.,-.6961928,-.5250731,-.3949175,-.2844414,-.1847734,-.0910500,0.,.0795803,.1609302,.2461123,.3379152,.4407098,.5626170,.7229568,1.]
c('nf4g64 gptq',(4,64,dict(lev=NF4)),G); c('s4g64 gptq',(4,64),G)
CONFIGS=C
