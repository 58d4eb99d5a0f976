"""Quantities mean what apimachinery says they mean.

The tables were checked against ``resource.Quantity`` of apimachinery v0.37.2:
``UnmarshalJSON`` for what is accepted, ``Value`` and ``MilliValue`` for the
counts.
"""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asetwin.resources import quantities
from unit.builders import ANY_SPEED

ACCEPTED = {
    "0": 0,
    "00": 0,
    "-0": 0,
    "007": 7,
    "1": 1,
    "+1": 1,
    "-1": -1,
    ".5": Fraction(1, 2),
    "5.": 5,
    "-0.5": Fraction(-1, 2),
    "1.0001": Fraction(10001, 10000),
    " 1": 1,
    "1 ": 1,
    "100n": Fraction(1, 10**7),
    "1u": Fraction(1, 10**6),
    "500m": Fraction(1, 2),
    "1.5m": Fraction(15, 10**4),
    "1k": 1000,
    "1M": 10**6,
    "1G": 10**9,
    "1T": 10**12,
    "1P": 10**15,
    "1E": 10**18,
    "12E": 12 * 10**18,
    "1Ki": 1024,
    "1Mi": 1024**2,
    "1Gi": 1024**3,
    "1Ti": 1024**4,
    "1Pi": 1024**5,
    "1Ei": 1024**6,
    "-1Gi": -(1024**3),
    "1.5Gi": 1536 * 1024**2,
    "0.3Ki": Fraction(3072, 10),
    "1e3": 1000,
    "1E3": 1000,
    "1e+3": 1000,
    "1E-3": Fraction(1, 1000),
    "1e03": 1000,
    "1.e3": 1000,
    ".5e1": 5,
    "129e6": 129 * 10**6,
    "128974848000m": 128974848,
    # No digits at all is zero, strange as it looks.
    ".": 0,
    "+": 0,
    "+.": 0,
    "E": 0,
    "Gi": 0,
}

REFUSED = [
    "",
    "  ",
    "1_000",
    "0x1",
    "1,5",
    "1.5.5",
    "--1",
    "+-1",
    "1 Gi",
    "1\n",
    "\t1",
    "1gi",
    "1KI",
    "1K",
    "1g",
    "1t",
    "1p",
    "1U",
    "1N",
    "1mi",
    "1i",
    "1B",
    "1GB",
    "1GiB",
    "1mm",
    "1m1",
    "1Kii",
    "1Ki3",
    "1e",
    "1e+",
    "1ee3",
    "1e3.5",
    "1e3m",
    "nan",
    "inf",
    "None",
    "True",
    "\u0663",
]


@pytest.mark.parametrize(("text", "value"), ACCEPTED.items(), ids=map(repr, ACCEPTED))
def test_means_what_the_api_server_reads(text: str, value: Fraction) -> None:
    assert quantities.parse(text) == value


@pytest.mark.parametrize("text", REFUSED, ids=map(repr, REFUSED))
def test_refuses_what_the_api_server_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantities.parse(text)


@pytest.mark.parametrize(
    ("number", "value"),
    [
        pytest.param(2, Fraction(2), id="int"),
        pytest.param(0.1, Fraction(1, 10), id="float-means-its-decimal"),
        pytest.param(1e22, Fraction(10**22), id="float-with-exponent"),
        pytest.param(1e-07, Fraction(1, 10**7), id="float-with-negative-exponent"),
    ],
)
def test_takes_the_numbers_that_yaml_yields(number: float, value: Fraction) -> None:
    assert quantities.parse(number) == value


@pytest.mark.parametrize("number", [True, float("nan"), float("inf")])
def test_refuses_the_numbers_that_json_has_not(number: float) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantities.parse(number)


@pytest.mark.parametrize(
    ("resource", "quantity", "count"),
    [
        pytest.param("cpu", "1", 1000, id="cpu-in-millicores"),
        pytest.param("cpu", "1500m", 1500, id="cpu-millis"),
        pytest.param("cpu", "0.5m", 1, id="cpu-below-a-millicore"),
        pytest.param("cpu", "100n", 1, id="cpu-nanos"),
        pytest.param("cpu", "1.0001", 1001, id="cpu-rounds-up"),
        pytest.param("cpu", "1Ki", 1024000, id="cpu-binary"),
        pytest.param("memory", "1500m", 2, id="memory-millibytes"),
        pytest.param("memory", "1.5Gi", 1610612736, id="memory-binary-fraction"),
        pytest.param("memory", "0.3Ki", 308, id="memory-rounds-up"),
        pytest.param("pods", "110", 110, id="pods"),
        pytest.param("nvidia.com/gpu", "1", 1, id="gpu"),
        pytest.param("requests.cpu", "1", 1, id="only-cpu-itself-counts-in-millis"),
    ],
)
def test_counts_in_whole_units_rounded_up(resource: str, quantity: str, count: int) -> None:
    assert quantities.units(resource, quantity) == count


def test_an_absurd_exponent_takes_no_time_and_stays_absurd() -> None:
    # 10 to the power of it would need more memory than the machine has.
    assert quantities.parse("1e999999999") > 10**30
    assert quantities.units("cpu", "1e-999999999") == 1


@pytest.mark.parametrize(
    ("resource", "amount", "text"),
    [
        pytest.param("cpu", 2000, "2", id="whole-cpus"),
        pytest.param("cpu", 1500, "1500m", id="millis"),
        pytest.param("cpu", 0, "0", id="no-cpu"),
        pytest.param("memory", 0, "0", id="no-memory"),
        pytest.param("memory", 3 * 1024**3, "3Gi", id="gibibytes"),
        pytest.param("memory", 1536 * 1024**2, "1536Mi", id="mebibytes"),
        pytest.param("memory", 5 * 1024, "5Ki", id="kibibytes"),
        pytest.param("memory", 1025, "1025", id="bytes"),
        pytest.param("pods", 1024, "1024", id="pods-are-not-binary"),
    ],
)
def test_renders_in_the_form_that_people_expect(resource: str, amount: int, text: str) -> None:
    assert quantities.render(resource, amount) == text


@ANY_SPEED
@given(
    resource=st.sampled_from(["cpu", "memory", "pods", "nvidia.com/gpu"]),
    amount=st.one_of(
        st.integers(min_value=0, max_value=2**63),
        st.integers(min_value=0, max_value=2**20).map(lambda n: n * 1024),
        st.integers(min_value=0, max_value=2**10).map(lambda n: n * 1024**3),
    ),
)
def test_what_is_rendered_reads_back_as_the_same(resource: str, amount: int) -> None:
    assert quantities.units(resource, quantities.render(resource, amount)) == amount


@ANY_SPEED
@given(
    number=st.decimals(min_value=0, max_value=10**9, places=9),
    suffix=st.sampled_from("num kMG"),
)
def test_rounding_up_adds_less_than_one_unit(number: Decimal, suffix: str) -> None:
    text = f"{number:f}{suffix.strip()}"
    exact = quantities.parse(text)
    assert exact <= quantities.units("memory", text) < exact + 1
    assert exact * 1000 <= quantities.units("cpu", text) < exact * 1000 + 1
