"""Python's own: builtin functions, math, operator, containers and their copies."""

TABLE = """
builtins (obj) number: len callable id hash
builtins (obj~) meta: type
builtins (obj~, classes) number decides: isinstance
builtins (*args) number: issubclass hasattr
builtins (x#) number decides: int bool
builtins (x#) number: str repr
builtins (x#, ndigits) number decides: round
builtins (value, spec) number: format
builtins (*stop) items: range slice
builtins (x#) setting ops=value: float
builtins (real#, imag#) setting ops: complex
builtins (x) computed: abs
builtins (base, exp, mod) computed: pow
builtins (iterable, start) computed: sum
builtins (a#, b#) computed: divmod
builtins (*values#, *, key, default) one_of ops=maximum: max
builtins (*values#, *, key, default) one_of ops=minimum: min
builtins (iterable) number: all any
builtins (*iterables, *, strict) items: list tuple set frozenset iter enumerate reversed
    zip dict
builtins (iterable, *, key, reverse) items: sorted
builtins (iterator, default) one_of: next
builtins (object, name, default) maybe:opaque: getattr vars
builtins (object!, name, value) nothing: setattr delattr
builtins (*values) nothing: print
builtins (*args) meta: Exception ArithmeticError AssertionError AttributeError
    FloatingPointError ImportError IndexError KeyError LookupError NotImplementedError
    OverflowError RuntimeError StopIteration TypeError ValueError ZeroDivisionError
    Warning DeprecationWarning FutureWarning RuntimeWarning UserWarning object super

math (x#) computed ops: sqrt exp log1p expm1 cos sin tan tanh fabs acos asin atan sinh
    cosh acosh asinh atanh log2 log10 exp2 cbrt erf erfc lgamma degrees radians
math (x#) computed: gamma frexp modf
math (x#, base#) computed ops: log
math (x#, y#) computed ops: pow atan2 copysign fmod
math (*coordinates#) computed ops: hypot
math (x#, y#) computed: remainder ldexp nextafter dist sumprod
math (x#, y#, z#) computed: fma
math (iterable, *, start) computed: prod
math (iterable#) computed ops: fsum
math (x#) number decides: ceil floor trunc isfinite isinf isnan isqrt factorial ulp
math (x#, y#) number decides: comb perm
math (*integers#) number decides: gcd lcm
math (x#, y#, *, rel_tol#, abs_tol#) number decides: isclose

operator (a, b) computed: add sub mul truediv floordiv mod matmul pow and_ or_ xor lshift
    rshift
operator (a) computed: neg pos abs invert inv
operator (a, b) computed: eq ge gt le lt ne
operator (a) number: not_ truth index
operator (a, b) number: is_ is_not contains countOf indexOf
operator (a!, b) same: iadd isub imul itruediv ifloordiv imod ipow iand ior ixor ilshift
    irshift iconcat
operator (a, b) computed: imatmul
operator (a, b) maybe:opaque: getitem
operator (a!, b, c) nothing: setitem
operator (a!, b) nothing: delitem
operator (*names) meta: attrgetter itemgetter methodcaller

copy (x) one_of: copy
copy (x) new functional=ops.deepcopy: deepcopy
itertools (*iterables) items: chain product permutations combinations cycle repeat
    islice zip_longest accumulate pairwise count batched
collections (*args) items: OrderedDict defaultdict deque Counter namedtuple
functools (func, *args) meta: partial
functools (function, iterable, initial) one_of: reduce
warnings (message, category, stacklevel, source) nothing: warn

container (self!, item) nothing: append appendleft add discard remove
container (self!, items) nothing: extend extendleft update intersection_update
    difference_update symmetric_difference_update
container (self!, index, item) nothing: insert
container (self!) nothing: clear reverse
container (self!, n) nothing: rotate
container (self!, *, key, reverse) nothing: sort
container (self!, key~, default) one_of: pop setdefault
container (self!) one_of: popleft popitem
container (self, key~, default) one_of: get
container (self) items: items keys values copy
container (self, *others) items: union intersection difference symmetric_difference
container (self, item) number: index count
container (self, *others) number: issubset issuperset isdisjoint
container (self!, last) nothing: move_to_end
"""
