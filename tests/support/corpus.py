"""Namespaces as sessions have them: code, and for each of its variables a test of its own.

A test is an expression that is true of the variable before and after sleep. What is `missing` is
what cannot be there afterwards.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec


@dataclass(frozen=True)
class Namespace:
    """`tests` and `missing` together name what `code` assigns."""

    name: str
    code: str
    tests: dict[str, str]
    missing: frozenset[str] = field(default_factory=frozenset)


CORPUS: list[Namespace] = []


def _add(name: str, code: str, missing: str = "", **tests: str) -> None:
    CORPUS.append(Namespace(name, code, tests, frozenset(missing.split())))


_add(
    "numbers and texts",
    """
n_int, n_big, n_float, n_complex = 7, 2**200, 0.1, 1 + 2j
n_text, n_bytes, n_none, n_flag, n_range = 'äöü\\n', b'\\0\\xff', None, True, range(2, 9, 3)
n_nan = float('nan')
""",
    n_int="n_int == 7 and type(n_int) is int",
    n_big="n_big == 2**200",
    n_float="n_float == 0.1",
    n_complex="n_complex == 1 + 2j",
    n_text="n_text == 'äöü\\n'",
    n_bytes="n_bytes == b'\\0\\xff'",
    n_none="n_none is None",
    n_flag="n_flag is True",
    n_range="list(n_range) == [2, 5, 8]",
    n_nan="n_nan != n_nan",
)
_add(
    "containers",
    """
c_list = [1, [2, [3]]]
c_dict = {'b': 1, 'a': (2, {3})}
c_bytearray, c_frozen = bytearray(b'abc'), frozenset({1, 2})
c_cycle = []; c_cycle.append(c_cycle)
c_slice = slice(1, None, 2)
""",
    c_list="c_list == [1, [2, [3]]]",
    c_dict="list(c_dict.items()) == [('b', 1), ('a', (2, {3}))]",
    c_bytearray="c_bytearray == b'abc' and type(c_bytearray) is bytearray",
    c_frozen="c_frozen == {1, 2}",
    c_cycle="c_cycle[0] is c_cycle",
    c_slice="c_slice == slice(1, None, 2)",
)
_add(
    "two names for one thing",
    """
s_list = [1, 2]
s_same = s_list
s_inside = {'of': s_list, 'deep': [[s_list]]}
s_tuple = (s_list, 3)
s_also = s_tuple
s_objects = [object() for _ in range(3)]
s_index = {id_: one for id_, one in enumerate(s_objects)}
""",
    s_list="s_list[:2] == [1, 2]",
    s_same="s_same is s_list",
    s_inside="s_inside['of'] is s_list and s_inside['deep'][0][0] is s_list",
    s_tuple="s_tuple[0] is s_list",
    s_also="s_also is s_tuple",
    s_objects="len(set(map(id, s_objects))) == 3",
    s_index="all(s_index[n] is s_objects[n] for n in range(3))",
)
_add(
    "functions and what they refer to",
    """
f_factor = 3
f_seen = []
def f_scale(x, *, plus=1): 'Scales.'; f_seen.append(x); return x * f_factor + plus
f_lambda = lambda x: f_scale(x) - 1
f_table = {'scale': f_scale}
def f_fact(n): return 1 if n < 2 else n * f_fact(n - 1)
f_scale.note = 'kept'
""",
    f_factor="f_factor == 3",
    f_seen="isinstance(f_seen, list)",
    f_scale="f_scale(2) == 7 and f_seen[-1] == 2 and f_scale.__doc__ == 'Scales.'"
    " and f_scale.note == 'kept' and f_scale.__globals__ is globals()",
    f_lambda="f_lambda(2) == 6",
    f_table="f_table['scale'] is f_scale",
    f_fact="f_fact(5) == 120",
)
_add(
    "closures that share a variable",
    """
def k_counter():
    count = 0
    def more(by=1):
        nonlocal count
        count += by
        return count
    def now(): return count
    return more, now
k_more, k_now = k_counter()
_ = k_more(5)
def k_make(n):
    return lambda: (n, k_make)
k_made = k_make(9)
""",
    k_counter="k_counter()[0]() == 1",
    k_more="k_more(0) == k_now() == 5",
    k_now="(k_more(2), k_now(), k_more(-2))[1] == 7",
    k_make="k_make(1)()[0] == 1",
    k_made="k_made() == (9, k_make)",
)
_add(
    "decorated functions",
    """
import functools
d_calls = []
def d_traced(function):
    @functools.wraps(function)
    def inner(*args):
        d_calls.append(function.__name__)
        return function(*args)
    return inner
@d_traced
def d_double(x): return 2 * x
@functools.lru_cache(maxsize=5)
def d_fib(n): return n if n < 2 else d_fib(n - 1) + d_fib(n - 2)
_ = d_fib(10)
@functools.singledispatch
def d_kind(x): return 'any'
@d_kind.register
def _(x: int): return 'int'
d_partial = functools.partial(d_double, 4)
""",
    functools="functools.reduce",
    d_calls="isinstance(d_calls, list)",
    d_traced="callable(d_traced)",
    d_double="d_double(4) == 8 and d_calls[-1] == 'd_double'",
    d_fib="d_fib(20) == 6765 and d_fib.cache_parameters()['maxsize'] == 5",
    d_kind="d_kind(1) == 'int' and d_kind('') == 'any'",
    d_partial="d_partial() == 8",
)
_add(
    "classes",
    """
class o_Base:
    kinds = []
    def __init__(self, name): self.name = name
    def __repr__(self): return f'{type(self).__name__}({self.name})'
    def __eq__(self, other): return type(other) is type(self) and other.name == self.name
    __hash__ = None
class o_Derived(o_Base):
    def __init__(self, name):
        super().__init__(name)
        self.kinds.append(name)
    @property
    def loud(self): return self.name.upper()
    @classmethod
    def make(cls): return cls('made')
    @staticmethod
    def one(): return 1
    def me(self): return __class__
    class Inner: pass
o_one = o_Derived('one')
o_two = o_Base('two')
o_method = o_one.me
o_both = [o_one, o_two]
""",
    o_Base="o_Base('x') == o_Base('x') and 'one' in o_Base.kinds",
    o_Derived="issubclass(o_Derived, o_Base) and o_Derived.make().loud == 'MADE'"
    " and o_Derived.one() == 1 and o_Derived.Inner.__qualname__ == 'o_Derived.Inner'",
    o_one="type(o_one) is o_Derived and o_one.loud == 'ONE' and o_one.me() is o_Derived",
    o_two="type(o_two) is o_Base and repr(o_two) == 'o_Base(two)'",
    o_method="o_method() is o_Derived and o_method.__self__ is o_one",
    o_both="o_both[0] is o_one and o_both[1] is o_two",
)
_add(
    "slots, descriptors, abstract classes and a metaclass",
    """
import abc
class m_Slots:
    __slots__ = ('a', 'b')
    def __init__(self): self.a = [1]
class m_Positive:
    def __set_name__(self, owner, name): self.name = '_' + name
    def __get__(self, of, owner=None): return self if of is None else getattr(of, self.name)
    def __set__(self, of, value): setattr(of, self.name, abs(value))
class m_Account:
    balance = m_Positive()
class m_Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class m_Square(m_Shape):
    def area(self): return 4
class m_Meta(type):
    def __call__(cls, *args): return super().__call__(*args)
    def __len__(cls): return 42
class m_Counted(metaclass=m_Meta): pass
m_slots, m_account, m_square = m_Slots(), m_Account(), m_Square()
m_account.balance = -5
m_counted = m_Counted()
""",
    abc="abc.ABC",
    m_Slots="m_Slots.__slots__ == ('a', 'b')",
    m_Positive="m_Positive()",
    m_Account="isinstance(m_Account.balance, m_Positive)",
    m_Shape="m_Shape.__abstractmethods__ == {'area'}",
    m_Square="m_Square().area() == 4",
    m_Meta="issubclass(m_Meta, type)",
    m_Counted="len(m_Counted) == 42 and type(m_Counted) is m_Meta",
    m_slots="m_slots.a == [1] and not hasattr(m_slots, 'b')",
    m_account="m_account.balance == 5 and type(m_account) is m_Account",
    m_square="isinstance(m_square, m_Shape)",
    m_counted="type(m_counted) is m_Counted",
)
_add(
    "dataclasses, named tuples and enumerations",
    """
import collections, dataclasses, enum, typing
@dataclasses.dataclass(order=True)
class t_Point:
    x: int
    tags: list = dataclasses.field(default_factory=list, compare=False)
@dataclasses.dataclass(frozen=True, slots=True)
class t_Frozen:
    name: str = 'n'
class t_Color(enum.Enum):
    RED = 1
    BLUE = 'b'
class t_Flag(enum.Flag):
    A = enum.auto()
    B = enum.auto()
t_Pair = collections.namedtuple('t_Pair', 'left right')
class t_Row(typing.NamedTuple):
    id: int
    name: str = 'row'
class t_Options(typing.TypedDict, total=False):
    depth: int
t_point, t_frozen = t_Point(1, ['a']), t_Frozen('f')
t_red, t_flags = t_Color.RED, t_Flag.A | t_Flag.B
t_pair, t_row = t_Pair(1, t_red), t_Row(3)
t_options: t_Options = {'depth': 2}
t_UserId = typing.NewType('t_UserId', int)
""",
    collections="collections.Counter",
    dataclasses="dataclasses.field",
    enum="enum.Enum",
    typing="typing.Any",
    t_Point="t_Point(1) < t_Point(2) and len(dataclasses.fields(t_Point)) == 2",
    t_Frozen="t_Frozen() == t_Frozen('n') and hash(t_Frozen())",
    t_Color="t_Color(1) is t_Color.RED and t_Color['BLUE'].value == 'b'",
    t_Flag="list(t_Flag) == [t_Flag.A, t_Flag.B]",
    t_Pair="t_Pair(1, 2)._fields == ('left', 'right')",
    t_Row="t_Row(1).name == 'row'",
    t_Options="t_Options(depth=1)",
    t_point="t_point == t_Point(1) and t_point.tags == ['a'] and type(t_point) is t_Point",
    t_frozen="t_frozen == t_Frozen('f')",
    t_red="t_red is t_Color.RED",
    t_flags="t_flags == t_Flag.A | t_Flag.B",
    t_pair="t_pair.left == 1 and t_pair.right is t_Color.RED and type(t_pair) is t_Pair",
    t_row="t_row == (3, 'row') and type(t_row) is t_Row",
    t_options="t_options == {'depth': 2}",
    t_UserId="t_UserId(5) == 5 and t_UserId.__name__ == 't_UserId'",
    __annotations__="'t_options' in __annotations__",
)
_add(
    "exceptions and generic classes",
    """
class e_Failed(Exception):
    def __init__(self, code, why):
        super().__init__(f'{code}: {why}')
        self.code = code
class e_Plain(ValueError): pass
e_plain = e_Plain('text', 3)
try:
    1 / 0
except ZeroDivisionError as error:
    e_caught = error
e_Item = typing.TypeVar('e_Item')
class e_Stack(typing.Generic[e_Item]):
    def __init__(self): self.items = []
e_stack = e_Stack[int]()
e_stack.items.append(1)
e_failed = e_Failed(3, 'no')
""",
    missing="e_failed",
    e_Failed="e_Failed(1, 'x').code == 1",
    e_Plain="issubclass(e_Plain, ValueError)",
    e_plain="e_plain.args == ('text', 3) and type(e_plain) is e_Plain",
    e_caught="type(e_caught) is ZeroDivisionError and e_caught.args == ('division by zero',)",
    e_Item="e_Item.__name__ == 'e_Item'",
    e_Stack="e_Stack[str]",
    e_stack="e_stack.items == [1] and isinstance(e_stack, e_Stack)",
)
_add(
    "asynchronous code",
    """
import asyncio
async def a_answer(): return 42
async def a_count():
    for n in range(3): yield n
class a_Context:
    async def __aenter__(self): return self
    async def __aexit__(self, *_): pass
a_lock = asyncio.Lock()
a_queue = asyncio.Queue()
a_queue.put_nowait('item')
a_task = asyncio.create_task(asyncio.sleep(0))
a_coroutine = a_answer()
""",
    missing="a_task a_coroutine",
    asyncio="asyncio.sleep",
    a_answer="await a_answer() == 42",
    a_count="[n async for n in a_count()] == [0, 1, 2]",
    a_Context="callable(a_Context.__aenter__)",
    a_lock="not a_lock.locked()",
    a_queue="a_queue.qsize() == 1",
)
_add(
    "iterators and generators",
    """
import itertools
g_generator = (n for n in range(3))
g_list_iterator = iter([1, 2, 3]); _ = next(g_list_iterator)
g_enumerate = enumerate('ab')
def g_count():
    yield from range(3)
g_running = g_count(); _ = next(g_running)
g_in_list = [1, g_running]
""",
    missing="g_generator g_running g_in_list",
    itertools="itertools.chain",
    g_list_iterator="g_list_iterator.__length_hint__() == 2",
    g_enumerate="type(g_enumerate) is enumerate",
    g_count="list(g_count()) == [0, 1, 2]",
)
_add(
    "open files",
    """
import io, os, tempfile
i_written = open('i_file.txt', 'w+'); _ = i_written.write('text'); i_written.flush()
i_read = open('i_file.txt')
i_binary = open('i_file.txt', 'rb')
i_config = {'log': i_written, 'level': 1}
i_text = io.StringIO('some text'); _ = i_text.read(5)
i_bytes = io.BytesIO(b'abc')
i_temporary = tempfile.NamedTemporaryFile()
i_path = tempfile.gettempdir()
class i_Logger:
    def __init__(self): self.file = open(os.devnull, 'w')
i_logger = i_Logger()
""",
    missing="i_written i_read i_binary i_config i_temporary i_logger",
    io="io.open",
    os="os.getpid()",
    tempfile="tempfile.mkdtemp",
    i_text="i_text.tell() == 5 and i_text.getvalue() == 'some text'",
    i_bytes="i_bytes.getvalue() == b'abc'",
    i_path="i_path == '/tmp'",
    i_Logger="i_Logger",
)
_add(
    "connections",
    """
import socket, sqlite3
b_database = sqlite3.connect(':memory:')
b_cursor = b_database.execute('select 1')
b_rows = b_database.execute('select 1, 2').fetchall()
b_left, b_right = socket.socketpair()
class b_Store:
    def __init__(self, database): self.database = database
b_store = b_Store(b_database)
""",
    missing="b_database b_cursor b_left b_right b_store",
    socket="socket.AF_INET",
    sqlite3="sqlite3.connect",
    b_rows="b_rows == [(1, 2)]",
    b_Store="b_Store(1).database == 1",
)
_add(
    "threads, locks and processes",
    """
import concurrent.futures, queue, subprocess, threading
p_free, p_held = threading.Lock(), threading.Lock(); _ = p_held.acquire()
p_reentrant, p_event, p_condition = threading.RLock(), threading.Event(), threading.Condition()
p_event.set()
p_queue = queue.Queue(); p_queue.put([1])
p_thread = threading.Thread(target=p_event.wait); p_thread.start()
p_pool = concurrent.futures.ThreadPoolExecutor(1)
p_done = p_pool.submit(lambda: 5); _ = p_done.result()
p_local = threading.local()
p_process = subprocess.Popen(['true'])
p_finished = subprocess.run(['echo', 'said'], capture_output=True, text=True)
class p_Cache:
    def __init__(self): self.lock, self.values = threading.Lock(), {'a': 1}
p_cache = p_Cache()
""",
    missing="p_held p_thread p_pool p_local p_process",
    concurrent="concurrent.futures.Future",
    queue="queue.Queue",
    subprocess="subprocess.run",
    threading="threading.Thread",
    p_free="p_free.acquire(blocking=False) and not p_free.release()",
    p_reentrant="p_reentrant.acquire(blocking=False) and not p_reentrant.release()",
    p_event="p_event.is_set()",
    p_condition="p_condition.acquire(blocking=False) and not p_condition.release()",
    p_queue="p_queue.qsize() == 1 and p_queue.queue[0] == [1]",
    p_done="p_done.result(0) == 5",
    p_finished="(p_finished.stdout, p_finished.returncode) == ('said\\n', 0)",
    p_Cache="p_Cache",
    p_cache="p_cache.values == {'a': 1} and not p_cache.lock.locked()",
)
_add(
    "modules by other names, and names of modules",
    """
import numpy as np, pandas as pd, os.path as x_path
import xml.etree.ElementTree
import urllib.request
from math import sqrt as x_root, pi as x_pi
from collections import OrderedDict as x_Ordered, defaultdict
import __main__ as x_main
x_tree = xml.etree.ElementTree.fromstring('<a><b/></a>')
x_default = defaultdict(list); x_default['k'].append(1)
x_ordered = x_Ordered(a=1)
x_modules = {'np': np}
""",
    np="np.__name__ == 'numpy'",
    pd="pd.DataFrame",
    x_path="x_path is os.path",
    xml="xml.etree.ElementTree.Element",
    urllib="urllib.request.Request",
    x_root="x_root(9) == 3",
    x_pi="x_pi > 3",
    x_Ordered="x_Ordered is collections.OrderedDict",
    defaultdict="defaultdict is collections.defaultdict",
    x_main="x_main.x_main is x_main and x_main.x_pi == x_pi",
    x_tree="x_tree[0].tag == 'b'",
    x_default="x_default['k'] == [1] and x_default['new'] == []",
    x_ordered="x_ordered == {'a': 1} and type(x_ordered) is x_Ordered",
    x_modules="x_modules['np'] is np",
)
_add(
    "arrays",
    """
u_small = np.arange(6).reshape(2, 3)
u_large = np.arange(200_000, dtype=float)
u_same = u_large
u_fixed = np.array([1, 2]); u_fixed.flags.writeable = False
u_fortran = np.asfortranarray(np.ones((3, 4)))
u_objects = np.array([{'a': 1}, None], dtype=object)
u_records = np.array([(1, 'a')], dtype=[('n', int), ('t', 'U5')])
u_masked = np.ma.array([1, 2], mask=[True, False])
u_scalar, u_type = np.float32(1.5), np.dtype('int16')
u_dates = np.array(['2024-01-01'], dtype='datetime64[D]')
u_generator = np.random.default_rng(5); _ = u_generator.random()
u_next = u_generator.bit_generator.state['state']['state']
u_list = [u_large, u_small]
""",
    u_small="u_small.tolist() == [[0, 1, 2], [3, 4, 5]]",
    u_large="u_large.sum() == 19999900000 and u_large.flags.writeable",
    u_same="u_same is u_large",
    u_fixed="u_fixed.tolist() == [1, 2] and not u_fixed.flags.writeable",
    u_fortran="u_fortran.flags.f_contiguous and u_fortran.shape == (3, 4)",
    u_objects="u_objects[0] == {'a': 1} and u_objects[1] is None",
    u_records="u_records['t'][0] == 'a'",
    u_masked="u_masked.sum() == 2 and u_masked.mask.tolist() == [True, False]",
    u_scalar="u_scalar == 1.5 and type(u_scalar) is np.float32",
    u_type="u_type == np.int16",
    u_dates="str(u_dates[0]) == '2024-01-01'",
    u_generator="u_generator.bit_generator.state['state']['state'] == u_next",
    u_next="u_next > 0",
    u_list="u_list[0] is u_large and u_list[1] is u_small",
)
_add(
    "views of arrays",
    """
h_whole = np.zeros((100, 100))
h_row = h_whole[3]
h_turned = h_whole.T
h_alone = np.arange(10)[2:5]
h_little = np.arange(4); h_backwards = h_little[::-1]
h_days = np.array(['2024-01-01', '2024-01-02'], dtype='datetime64[D]'); h_day = h_days[1:]
h_columns = np.asfortranarray(np.ones((2, 3))); h_column = h_columns[:, 1]
h_list = [h_row]
""",
    h_whole="h_whole.shape == (100, 100)",
    h_row="(h_whole[3].__setitem__(0, 7.0), h_row[0])[1] == 7.0 and h_row.shape == (100,)",
    h_turned="np.shares_memory(h_turned, h_whole) and h_turned[0, 3] == h_whole[3, 0]",
    h_list="h_list[0] is h_row",
    h_alone="h_alone.tolist() == [2, 3, 4]",
    h_little="h_little.tolist() == [0, 1, 2, 3]",
    h_backwards="h_backwards.tolist() == [3, 2, 1, 0] and np.shares_memory(h_little, h_backwards)",
    h_days="h_days[1] == np.datetime64('2024-01-02')",
    h_day="h_day[0] == h_days[1] and np.shares_memory(h_days, h_day)",
    h_columns="h_columns.flags.f_contiguous and h_columns.sum() == 6",
    h_column="h_column.shape == (2,) and np.shares_memory(h_columns, h_column)",
)
_add(
    "tables",
    """
r_table = pd.DataFrame({'n': [1, 2, 3], 't': ['a', None, 'c'],
                        'd': pd.date_range('2024-01-01', periods=3, tz='Europe/Berlin')})
r_copy = r_table.copy()
r_column = r_table['n']
r_grouped = r_table.groupby('n')
r_wide = r_table.set_index(['n', 't'])
r_categories = pd.Series(['x', 'y', 'x'], dtype='category')
r_series = pd.Series([1.5, None], index=['p', 'q'], name='s')
r_when, r_gap, r_missing = pd.Timestamp('2024-05-01'), pd.Timedelta('1h'), pd.NA
r_interval = pd.interval_range(0, 3)
r_large = pd.DataFrame({'i': range(50_000), 's': [str(n) for n in range(50_000)]})
r_rolling = r_table['n'].rolling(2)
r_indexed = {'table': r_table}
""",
    r_table="r_table.equals(r_copy) and r_table['d'].dt.tz.key == 'Europe/Berlin'",
    r_copy="r_copy is not r_table and r_copy['n'].sum() == 6",
    r_column="r_column.tolist() == [1, 2, 3]",
    r_grouped="r_grouped.ngroups == 3",
    r_wide="r_wide.index.names == ['n', 't']",
    r_categories="r_categories.cat.categories.tolist() == ['x', 'y']",
    r_series="r_series['p'] == 1.5 and r_series.isna().tolist() == [False, True]",
    r_when="r_when.month == 5",
    r_gap="r_gap.seconds == 3600",
    r_missing="r_missing is pd.NA",
    r_interval="len(r_interval) == 3",
    r_large="r_large['i'].sum() == 1249975000 and r_large['s'].iloc[-1] == '49999'",
    r_rolling="r_rolling.sum().tolist()[1:] == [3, 5]",
    r_indexed="r_indexed['table'] is r_table",
)
_add(
    "figures",
    """
import matplotlib.pyplot as plt
plt.rcParams['axes.titlesize'] = 17.5
v_figure, v_axes = plt.subplots()
(v_line,) = v_axes.plot([1, 2, 3], label='line')
_ = v_axes.set_title('Title')
_ = v_axes.bar([1, 2], [3, 4])
plt.close(v_figure)
v_colors = plt.get_cmap('viridis')
""",
    plt="plt.rcParams['axes.titlesize'] == 17.5",
    v_figure="len(v_figure.axes) == 1",
    v_axes="v_figure.axes[0] is v_axes and v_axes.get_title() == 'Title'",
    v_line="v_axes.lines[0] is v_line and v_line.get_ydata().tolist() == [1, 2, 3]",
    v_colors="v_colors.name == 'viridis'",
)
_add(
    "models",
    """
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
w_x = np.arange(40.0).reshape(20, 2)
w_y = w_x[:, 0] * 2 + 1
w_linear = LinearRegression().fit(w_x, w_y)
w_forest = RandomForestClassifier(n_estimators=5, random_state=1).fit(w_x, w_y > 40)
def w_half(x): return x / 2
w_pipeline = make_pipeline(FunctionTransformer(w_half), StandardScaler(), w_linear).fit(w_x, w_y)
w_said = w_forest.predict(w_x).tolist()
""",
    RandomForestClassifier="isinstance(RandomForestClassifier, type)",
    LinearRegression="isinstance(LinearRegression, type)",
    make_pipeline="make_pipeline",
    FunctionTransformer="isinstance(FunctionTransformer, type)",
    StandardScaler="isinstance(StandardScaler, type)",
    w_x="w_x.shape == (20, 2)",
    w_y="w_y[0] == 1",
    w_linear="w_pipeline.steps[-1][1] is w_linear",
    w_forest="w_forest.predict(w_x).tolist() == w_said",
    w_half="w_half(4) == 2",
    w_pipeline="np.allclose(w_pipeline.predict(w_x), w_y)",
    w_said="len(w_said) == 20",
)
_add(
    "dates, numbers with places, and paths",
    """
import datetime, decimal, fractions, pathlib, re, uuid, zoneinfo
z_date, z_time = datetime.date(2024, 2, 29), datetime.time(1, 2)
z_moment = datetime.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo('Asia/Tokyo'))
z_decimal, z_fraction = decimal.Decimal('1.10'), fractions.Fraction(1, 3)
z_path, z_uuid, z_pattern = pathlib.Path('a/b'), uuid.UUID(int=5), re.compile('a+', re.I)
z_match = re.match('a', 'abc')
""",
    missing="z_match",
    datetime="datetime.date",
    decimal="decimal.Decimal",
    fractions="fractions.Fraction",
    pathlib="pathlib.Path",
    re="re.compile",
    uuid="uuid.uuid4()",
    zoneinfo="zoneinfo.ZoneInfo",
    z_date="z_date.isoformat() == '2024-02-29'",
    z_time="z_time.minute == 2",
    z_moment="z_moment.tzinfo is zoneinfo.ZoneInfo('Asia/Tokyo')",
    z_decimal="str(z_decimal) == '1.10'",
    z_fraction="z_fraction * 3 == 1",
    z_path="z_path.name == 'b'",
    z_uuid="z_uuid.int == 5",
    z_pattern="z_pattern.match('AA') and z_pattern is re.compile('a+', re.I)"
    " or z_pattern == re.compile('a+', re.I)",
)
_add(
    "views of dicts and memory, weak references",
    """
import types, weakref
y_dict = {'a': 1}
y_keys, y_values, y_items = y_dict.keys(), y_dict.values(), y_dict.items()
y_proxy = types.MappingProxyType({'p': 1})
y_buffer = bytearray(b'abcdef')
y_memory, y_part = memoryview(y_buffer), memoryview(y_buffer)[1:3]
class y_Node: pass
y_node = y_Node()
y_weak = weakref.ref(y_node)
y_cache = weakref.WeakValueDictionary(node=y_node)
y_called_back = weakref.ref(y_node, print)
y_simple = types.SimpleNamespace(node=y_node)
""",
    missing="y_part y_called_back",
    types="types.SimpleNamespace",
    weakref="weakref.ref",
    y_dict="y_dict['a'] == 1",
    y_keys="(y_dict.__setitem__('new', 2), 'new' in y_keys, y_dict.pop('new'))[1]",
    y_values="list(y_values) == [1]",
    y_items="list(y_items) == [('a', 1)]",
    y_proxy="y_proxy == {'p': 1} and type(y_proxy) is types.MappingProxyType",
    y_buffer="y_buffer == b'abcdef'",
    y_memory="y_memory.obj is y_buffer",
    y_Node="y_Node",
    y_node="type(y_node) is y_Node",
    y_weak="y_weak() is y_node",
    y_cache="y_cache['node'] is y_node",
    y_simple="y_simple.node is y_node",
)
_add(
    "what refuses, or misleads, a pickler",
    """
class l_Refuses:
    def __reduce__(self): raise TypeError('not me')
class l_State:
    def __init__(self): self.a, self.file = 1, None
    def __getstate__(self): return {'a': self.a}
    def __setstate__(self, state): self.__dict__.update(state, file='reopened')
class l_Broken:
    def __setstate__(self, state): raise RuntimeError('cannot')
    def __getstate__(self): return {'a': 1}
class l_Lies(dict):
    def __reduce__(self): return (int, ('x',))
class l_Single:
    one = None
    def __new__(cls):
        cls.one = cls.one or super().__new__(cls)
        return cls.one
l_refuses, l_state, l_broken, l_lies = l_Refuses(), l_State(), l_Broken(), l_Lies()
l_single = l_Single()
l_around = [l_refuses]
l_beside = {'fine': 1}
""",
    missing="l_refuses l_broken l_lies l_around",
    l_Refuses="l_Refuses",
    l_State="l_State().a == 1",
    l_Broken="l_Broken",
    l_Lies="l_Lies(a=1) == {'a': 1}",
    l_Single="l_Single() is l_Single()",
    l_state="l_state.a == 1",
    l_single="l_single is l_Single()",
    l_beside="l_beside == {'fine': 1}",
)
_add(
    "something deep",
    """
q_list = None
for _ in range(3000): q_list = [q_list]
class q_Link:
    def __init__(self, after): self.after = after
q_chain = None
for _ in range(1000): q_chain = q_Link(q_chain)
def q_depth(link):
    depth = 0
    while link is not None: link, depth = link.after, depth + 1
    return depth
q_abyss = None
for _ in range(200_000): q_abyss = [q_abyss]
""",
    missing="q_abyss",
    q_list="str(type(q_list[0][0])) == \"<class 'list'>\"",
    q_Link="q_Link(None).after is None",
    q_chain="q_depth(q_chain) == 1000",
    q_depth="q_depth(None) == 0",
)
_add(
    "a graph of objects",
    """
class ga_Node:
    def __init__(self, name): self.name, self.links, self.parent = name, [], None
    def link(self, other): self.links.append(other); other.parent = self; return other
ga_root = ga_Node('root')
ga_leaf = ga_root.link(ga_Node('middle')).link(ga_Node('leaf'))
ga_index = {node.name: node for node in (ga_root, ga_leaf, ga_leaf.parent)}
""",
    ga_Node="ga_Node('x').links == []",
    ga_root="ga_root.links[0].links[0] is ga_leaf",
    ga_leaf="ga_leaf.parent.parent is ga_root",
    ga_index="ga_index['leaf'] is ga_leaf and ga_index['middle'] is ga_root.links[0]",
)
_add(
    "logging",
    """
import logging, sys
lg_log = logging.getLogger('app')
lg_log.setLevel(logging.DEBUG)
lg_handler = logging.StreamHandler(sys.stdout)
lg_log.addHandler(lg_handler)
lg_to_file = logging.FileHandler('lg.log')
lg_out = sys.stdout
""",
    missing="lg_to_file",
    logging="logging.getLogger('app') is lg_log",
    sys="sys.path",
    lg_log="lg_log.level == logging.DEBUG and lg_log.handlers == [lg_handler]",
    lg_handler="lg_handler.stream is sys.stdout",
    lg_out="lg_out is sys.stdout",
)
_add(
    "namespaces of its own",
    """
ns_dict = {}
exec('counter = 1\\ndef bump(): global counter; counter += 1; return counter', ns_dict)
ns_bump = ns_dict['bump']
ns_module = types.ModuleType('made_up'); ns_module.value = 5
ns_globals = globals()
ns_shell = get_ipython()
ns_builtin, ns_method = len, [1, 2].count
""",
    ns_dict="ns_dict['counter'] >= 1 and ns_dict['bump'] is ns_bump",
    ns_bump="ns_bump() == ns_dict['counter']",
    ns_module="ns_module.value == 5 and ns_module.__name__ == 'made_up'",
    ns_globals="ns_globals is globals()",
    ns_shell="ns_shell is get_ipython()",
    ns_builtin="ns_builtin is len",
    ns_method="ns_method(1) == 1",
)
_add(
    "code that needs a global to be made again",
    """
class gl_Money:
    def __init__(self, cents): self.cents = cents
    def __hash__(self): return gl_mix(self.cents)
    def __eq__(self, other): return self.cents == other.cents
gl_salt = [9] * 1000
def gl_mix(n): return hash((n, len(gl_salt)))
gl_prices = {gl_Money(5): 'five'}
gl_odd = {gl_Money(n) for n in (1, 3)}
gl_registry = {}
class gl_Plugin:
    def __init_subclass__(cls): gl_registry[cls.__name__] = cls
class gl_One(gl_Plugin): pass
""",
    gl_Money="gl_Money(5) == gl_Money(5)",
    gl_prices="gl_prices[gl_Money(5)] == 'five'",
    gl_odd="gl_Money(3) in gl_odd",
    gl_salt="len(gl_salt) == 1000",
    gl_mix="gl_mix(1)",
    gl_Plugin="gl_Plugin",
    gl_registry="gl_registry == {'gl_One': gl_One}",
    gl_One="issubclass(gl_One, gl_Plugin)",
)
_add(
    "what is private, and what was done to builtins",
    """
_pr_hidden = [1]
__pr_more = _pr_hidden
pr_print = print
vars = 5
""",
    _pr_hidden="_pr_hidden == [1]",
    __pr_more="__pr_more is _pr_hidden",
    pr_print="pr_print is print",
    vars="vars == 5",
)
_add(
    "models with fields that are checked",
    """
import pydantic
class py_User(pydantic.BaseModel):
    name: str
    tags: list[str] = []
py_user = py_User(name='n', tags=['t'])
""",
    pydantic="pydantic.BaseModel",
    py_User="py_User(name='x').tags == []",
    py_user="py_user.model_dump() == {'name': 'n', 'tags': ['t']} and type(py_user) is py_User",
)
if find_spec("torch"):
    _add(
        "tensors",
        """
import torch
to_tensor = torch.arange(6.0).reshape(2, 3)
to_model = torch.nn.Linear(3, 1)
to_said = to_model(to_tensor).tolist()
""",
        torch="torch.nn",
        to_tensor="to_tensor.sum() == 15",
        to_model="to_model(to_tensor).tolist() == to_said",
        to_said="len(to_said) == 2",
    )
