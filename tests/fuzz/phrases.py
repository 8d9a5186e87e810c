"""The idioms of which random steps are made.

``$x $y $z`` are tensors, ``$n`` a variable that may be bound again, ``$l`` a list of two
tensors or more, ``$d`` a dict with "x" and "y", ``$s $t`` numbers, ``$c`` a condition,
``$e`` a tensor that is mostly new,
``$i`` an index, ``$k`` a key of a dict; ``$W`` binds a new tensor, ``$w $u`` anything
new; ``$B`` is a block of further statements, which may read ``$W``. Lists keep two items
and dicts their keys, so that any phrase can follow any other.
"""

from __future__ import annotations

IN_PLACE = r"""
$x.mul_($s).add_($y, alpha=$t)
$x.mul_($s)
$x += $y
$x *= $s
$x -= $s * $y
$x.copy_($y)
$x.lerp_($y, $s)
$x.addcmul_($y, $z, value=$s)
$x.addcdiv_($y, $z.square().add_(1).sqrt_(), value=$s)
$x.clamp_(-1.5, 1.5)
$x.neg_()
$x.sin_().add_($t)
$x[$y > 0.1] = $s
$x[$y > 0.1].mul_(3)
$x[0].mul_($s)
$x[-1] = $s
$x[:1] = $y[:1]
$x[1:].add_($s)
$x[0] += $s
torch.maximum($x, $y.sin(), out=$x)
torch.add($x.mul_($s), $y.cos(), out=$x)
torch.mul($x, $y, out=$z)
torch.clamp($x, -1.0, 1.0, out=$y)
F.relu($x, inplace=True)
F.leaky_relu($x, 0.3, inplace=True)
torch.sin_($x)
torch._foreach_mul_([$x, $y], $s)
p.mul_(1 - lr * decay)
p.data.add_($x, alpha=-decay)
p.add_($x.tanh(), alpha=-0.05)
"""

NAMES = r"""
$n = $x
$n = $x * $s + $y
$n = $x.mul_($s)
$n = $x.clone().mul_($s)
$n = $x.detach()
$n = $x.data
$n = ($x.add_($s) * $y).sin_().add_($t)
$n = $x if $c else $y
$n = $x if $c else $y\n$n.mul_($s)
$n = $y = $x.tanh()
$n = $x.contiguous()
$n = $x.to($y.dtype)
$n = $x.double()
$n = state["m"]
state["m"] = $x.tanh()
state["v"] = $e
m = state["m"]
v = state["v"]
a, b = b, a
a, b = b, $x.clone()
m, v = v, m
a, m, b = m, b, a
state["m"], state["v"] = state["v"], state["m"]
state["m"] = state["m"].lerp($x, $s)
if ($w := $x.mul_($s)) is not None:\n    $n = $w
$n = state.get("m", $x)
$n = state.setdefault("extra", $e)
state.setdefault("extra", torch.zeros_like(p)).add_($x)
state["held"] = $e\nstate["held"].mul_($s)
"""

VIEWS = r"""
$x.view(-1).add_($s)
$x.reshape(-1).mul_($s)
$x.flatten().add_($s)
torch.reshape($x, (-1,)).mul_($s)
torch.flatten($x).mul_($s)
$w = $x.view(-1)\n$w.mul_($s)
$w = $x.reshape(-1)\n$w[0] = $s
$n = $x.view_as($y)
$w = $x[0]\n$w.mul_($s)
$w = $x[:1]\n$x.add_($y)\n$w.mul_($s)
$w, $u = $x.chunk(2)\n$w.mul_($s)\n$u.add_($t)
$w, $u = torch.chunk($x, 2)\n$x.mul_($s)\n$w.add_($u.sum())
$w = torch.split($x, 1)\n$w[0].mul_($s)
for $w in $x:\n    $w.add_($s)
$x.narrow(0, 0, 1).mul_($s)
$x.select(0, 1).add_($s)
$x.unsqueeze(0).mul_($s)
$w = $x.unsqueeze(0).squeeze(0)\n$w.mul_($s)
$n = $x.expand_as($y)
$w = $x.view(-1)[:2]\n$w.add_($s)\n$n = $x
"""

SQUARE = r"""
$x.T.mul_($s)
$w = $x.t()\n$w.add_($y)
$w = torch.t($x)\n$w.mul_($s)
$x[:, 1] = $s
$x.diagonal().add_($s)
$x.T[0].mul_($s)
$n = $x.T
$n = torch.t($x).clone()
torch.transpose($x, 0, 1).mul_($s)
$w = $x.T\n$x.mul_($s)\n$n = $w.clone()
$x.copy_($y.T)
$x.T.reshape(-1).mul_($s)
$w = $x[:, 0]\n$w.sub_($x[:, 1])
$x[0], $x[1] = $x[1].clone(), $x[0].clone()
"""

CALLS = r"""
$n = blend($x, $y)
damp($x, $s)
$n = same($x)\n$n.mul_($s)
$n = pick($x, $y, $c)
pick($x, $y, $c).mul_($s)
first_row($x).mul_($s)
$w = first_row($x)\n$w.add_($t)
first_row($x)[:1] = $s
pick($x, $y, $c)[0] += $s
torch.mul($x, $y, out=pick($x, $y, $c))
torch.sin_(pick($x, $y, $c))
damped($x, $s).add_($t)
damped($x, $s)
$w, $u = ends($x)\n$w.mul_($s)\n$u.add_($t)
$n = damped($x, $s)
push($l, $e)
swap($d)
$n = largest($l)
$n = self.decayed($x, $s)
$w = $x.mul_\n$w($s)
$w = $x.add_\n$w($y)
torch.Tensor.mul_($x, $s)
torch.Tensor.add_($x, $y, alpha=$s)
operator.imul($x, $s)
$n = operator.iadd($x, $y)
getattr($x, "mul_")($s)
$w = lambda t: t.mul_($s)\n$w($x)
$w = lambda: $x.mul_($s)\n$w()
def $w(t):\n    t.add_($s)\n$w($x)
def $w(t):\n    return t[0]\n$w($x).mul_($s)
def $w():\n    return $x\n$n = $w()
def $w():\n    $x.mul_($s)\n$w()
torch.nn.init.constant_($x, 0.3)
"""

LISTS = r"""
$l[$i].mul_($s).add_($x)
$l[$i] = $e
$l[$i] += $x
$n = $l[$i]
$n = $l[$i]\n$n.add_($s)
$l[0], $l[1] = $l[1], $l[0]
$l.append($e)\n$n = $l.pop(0)
$l.append($e)\ndel $l[0]
$w = $l.pop()\n$l.insert(0, $w)
$l.insert(0, $e)\n$l.pop()
$l.insert(1, $e)\n$l[1].mul_($s)\ndel $l[2:]
$l.extend([$e, $y.clone()])\ndel $l[:2]
$l += [$e]\n$n = $l.pop(0)
$l.reverse()
$l.reverse()\n$l[0].mul_($s)
$l.clear()\n$l.extend([$e, torch.zeros_like(p)])
$l[:] = [$e, torch.ones_like(p)]
$l[1:] = $l[1:]
$w = [$e, $y]\n$w[0].mul_($s)\n$n = $w[1]
$w = ($x, $y)\n$w[1].mul_($s)
$w = $l\n$w[0] = $x.clone()\n$w[1].mul_($s)
$n, $u = $l[0], $l[1]\n$u.mul_($s)
$w = [t * $s for t in $l]\n$w[0].add_($x)\n$n = $w[0]
for $W in $l:\n    $W.mul_($s)
for $W in $l:\n    if $c:\n        continue\n    $W.mul_($s)
for $W in $l:\n    $W.add_($s)\n    if $c:\n        break
for $w, $W in enumerate($l):\n    if $w == 1:\n        break\n    $W.add_($x)
for $w in range(2):\n    $l[$w].mul_($s)
for $w in range(2):\n    $l[$w] = $l[1 - $w].clone()
for $W, $w in zip($l, ($x, $y)):\n    $W.add_($w)
for $w in range(len($l)):\n    if $c:\n        continue\n    $l[$w].add_($x)
$w = 0\nwhile $w < 2:\n    $l[$w].mul_($s)\n    $w += 1
$w = 0\nwhile True:\n    $l[$w].add_($x)\n    $w += 1\n    if $w == 2:\n        break
$l.sort(key=lambda t: float(t.sum()))
"""

DICTS = r"""
$d[$k].mul_($s).add_($x)
$d[$k] = $e
$d[$k] += $y
$n = $d[$k]
$n = $d[$k]\n$n.mul_($s)
$w = "x" if $c else "y"\n$d[$w].mul_($s)
$w = "x" if $c else "y"\n$d[$w] = $e\n$n = $d["x"]
$w = "x" if $c else "y"\n$n = $d[$w]\n$n.add_($t)
$d["x"], $d["y"] = $d["y"], $d["x"]
$n = $d.pop($k)\n$d.update(x=$n, y=$e)
$d.update(x=$e)
$d.update({"x": $e, "y": torch.ones_like(p)})
$d |= {"x": $e}
$n = $d.get("x", $y)
$d["z"] = $e\ndel $d["z"]
$w = {"x": $e, "y": $y}\n$w[$k].mul_($s)\n$n = $w["x"]
$w = dict(x=$e, y=$y)\n$n = $w[$k]
for $w, $W in $d.items():\n    $W.mul_($s)
for $W in $d.values():\n    $W.add_($s)
for $w in $d:\n    $d[$w].mul_($s)
for $w in ("x", "y"):\n    $d[$w] = $d[$w] * $s + $x
for $w in ("x", "y"):\n    if $c:\n        continue\n    $d[$w].add_($x)
for $w, $W in list($d.items()):\n    $d[$w] = $W.clone()
for $w, $W in zip(("x", "y"), ($x, $y)):\n    $d[$w].add_($W)
$w = {k: t * 2 for k, t in $d.items()}\n$w["x"].mul_($s)\n$n = $w["x"]
for $w in ("m", "v"):\n    state[$w].mul_($s)
$w = "m" if $c else "v"\nstate[$w].add_($x)\n$n = state["m"]
$w = "m" if $c else "v"\nstate[$w] = $x.clone()
"""

FLOW = r"""
if $c:\n    $B\nelse:\n    $B
if $c:\n    $B
if $c:\n    $B\nelif $c:\n    $B
for $W in ($x, $y):\n    $B
for $W in [$x, $y, $z]:\n    if $c:\n        continue\n    $B
for $W in ($x, $y):\n    $B\n    if $c:\n        break
for $W in ($x, $y):\n    if $c:\n        $n = $W\n        break\n    $B
for $W in ($x, $y):\n    if $c:\n        break\n    $W.mul_($s)\nelse:\n    $B
for $w in range(2):\n    $B
for $w in range(3):\n    if $w == calls:\n        continue\n    $B
for $w in range(2):\n    $n = $x if $w else $y\n    $B
$w = 0\nwhile $w < 2:\n    $w += 1\n    $B
$w = 0\nwhile True:\n    $w += 1\n    if $w > 2:\n        break\n    $B
while $c:\n    $B\n    break
match calls % 3:\n    case 0:\n        $B\n    case 1 | 2:\n        $B
match calls:\n    case 1:\n        $B\n    case _:\n        $B
match group["mode"]:\n    case "one":\n        $B\n    case other:\n        $B
try:\n    $B\nfinally:\n    $B
try:\n    $B\nexcept ValueError:\n    $B
try:\n    $w = state["absent"]\nexcept KeyError:\n    $B
try:\n    if $c:\n        raise ValueError\n    $B\nexcept ValueError:\n    $B
with torch.no_grad():\n    $B
"""

HARD = r"""
$w, *$u = $x.unbind(0)\n$w.mul_($s)\n$u[0].add_($t)
$w = $x.unbind()\n$w[1].mul_($s)\n$x.add_($w[0].sum())
for $w in $x.unbind(0):\n    $w.mul_($s)
for $x[0] in ($y[1], $z[0]):\n    $y.mul_($s)
$n = careful($x, $s)
Tools.shrink($x)
$n = Tools.pair($x, $y)[0]
(lambda t: t.add_($s))($x)
$w = Pair($x, $y)\n$w.first.mul_($s)\n$n = $w.second
$w = Pair(first=$x, second=$y)\n$n, $u = $w
$w = Record($x, $y)\n$w.first.mul_($s)
$w = Record($x, $y)\n$w.first = $z\n$w.first.mul_($s)\n$n = $w.second
for $w in each($l):\n    $w.mul_($s)
$l[0:1] = [$e]\n$l[0].mul_($s)
$w = [$e, *$l]\n$w[$i].mul_($s)
$w = [*$l]\n$w.reverse()\n$w[0].mul_($s)
$w = list($l)\n$w[0] = $e\n$w[1].mul_($s)
$w = $l.copy()\n$w[0].mul_($s)\n$w[1] = $y
$w = $l[:]\n$w[0].mul_($s)
$w = $l[::-1]\n$w[0].add_($x)
$w = tuple($l)\n$w[0].mul_($s)
$n, *$u = $l\n$n.mul_($s)
*$u, $n = $l\n$n.mul_($s)
$w = [t.mul_($s) for t in $l]\n$n = $w[0]
for $W in list($l):\n    $W.mul_($s)
for $W in reversed($l):\n    $W.mul_($s)\n    $n = $W
$w = $d.pop("x")\n$d["x"] = $e\n$w.mul_($s)
$d.setdefault("x", $e).mul_($s)
$d.setdefault("z", $e).add_($y)
$n = $d.get("z", $y)\n$n.mul_($s)
$w = dict($d)\n$w["x"] = $e\n$w["y"].mul_($s)
$w = $d.copy()\n$w["x"].mul_($s)
$w = {**$d, "x": $e}\n$w["x"].mul_($s)\n$w["y"].add_($t)
$w = {k: t for k, t in $d.items()}\n$w["x"].mul_($s)
"""
"""What is refused more often than not, so far: it shall not fill the programs."""

SWAPS = r"""
p.data = $x.clone()
p.data = p.data + $x.tanh() * 0.1
p.data.copy_($x)
p.data = $e
$n = p.data = $e
p.data, $n = $e, p.data
$w = p.data\np.data = $e\n$n = $w
state["shadow"] = p.data.clone()\np.data.mul_($s)
if "shadow" not in state:\n    state["shadow"] = p.data.clone()\nstate["shadow"].lerp_(p.data, $s)
if "shadow" not in state:\n    state["shadow"] = p.data.clone()\np.data, state["shadow"] = state["shadow"], p.data
p.copy_(p.data.clone().mul_($s))
$n = p.data
$n = p
"""

NUMBERS = ("0.5", "beta", "1 - beta", "decay", "-0.3", "beta**calls", "lr", "0.9")
CONDITIONS = (
    'state["step"] % 2',
    'state["step"] > 2',
    'state["step"] % 3 == 1',
    "beta > 0.5",
    "calls > 1",
    "calls % 2 == 0",
    'group["flag"]',
    "not calls % 2",
    "$x is $y",
)
MADE = (
    "$x.clone()",
    "$x.clone()",
    "$x * 0.7",
    "($x + $y)",
    "torch.full_like(p, 0.2)",
    "$x",
)
"""What is put into a container: nearly always something new."""

INDICES = ("0", "1", "-1", "-2", "calls % 2", 'state["step"] % 2')
KEYS = ('"x"', '"y"')
LIST_VALUES = (
    "[$x, $y]",
    "[$e, $y.clone()]",
    "[torch.zeros_like(p), torch.ones_like(p)]",
    "list($l)",
    "$l",
    "[*$l, $x]",
    "$l[:2]",
    "[t for t in $l]",
)
DICT_VALUES = (
    '{"x": $x, "y": $y}',
    "dict(x=$x, y=$y.clone())",
    "dict($d)",
    "$d",
    "{**$d}",
    '{"x": $e, "y": $x.clone()}',
)

KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    kind: (
        weight,
        tuple(line.replace("\\n", "\n") for line in text.strip().splitlines()),
    )
    for kind, weight, text in (
        ("in place", 6, IN_PLACE),
        ("names", 5, NAMES),
        ("views", 3, VIEWS),
        ("square", 2, SQUARE),
        ("calls", 3, CALLS),
        ("lists", 4, LISTS),
        ("dicts", 4, DICTS),
        ("flow", 5, FLOW),
        ("swaps", 1, SWAPS),
        ("hard", 1, HARD),
    )
}
