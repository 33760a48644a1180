"""Purchase order files: what is read, and that every fault is told by line and column."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.orders import json_file, skus
from jobs.orders.model import OrderHeader, OrderLine, Problem
from jobs.orders.read import OrderFile, read_order
from toolkit.errors import InputFileError, UsageError

HEAD = "sku,product_name,quantity,unit_cost,product_url"
GOOD = "A-1,Blue mug,12,4.50,https://shop.example/p/1"


def written(folder: Path, content: str | bytes, name: str = "order.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path) -> InputFileError:
    with pytest.raises(InputFileError) as caught:
        read_order(path, "m", "1")
    return caught.value


def order(**fields: object) -> str:
    """A JSON order of one line with these fields, each on a line of its own from line 3."""
    line = {"sku": "A-1", "productName": "Mug", "quantity": 1, "unitCost": "1.5"} | fields
    inner = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in line.items())
    return '{"lines": [\n{\n' + inner + "\n}]}"


CSV_FAULTS = {
    "empty": ("", 1, 1, "empty"),
    "only blank lines": ("\n \n", 1, 1, "empty"),
    "only a header": (HEAD + "\n", 1, 1, "no lines"),
    "no header": (GOOD + "\n", 1, 1, "not a header"),
    "unknown column": ("sku,product_name,quantity,unit_cost,colour\n", 1, 5, "unknown column 'colour'"),
    "unnamed column": (f"{HEAD},\n{GOOD},\n", 1, 6, "unknown column ''"),
    "column twice": (f"{HEAD},SKU\n", 1, 6, "second column for sku"),
    "missing column": ("sku,product_name,unit_cost\n", 1, 1, "no column quantity"),
    "empty sku": (f"{HEAD}\n{GOOD}\n ,Mug,1,1,\n", 3, 1, "sku is empty"),
    "sku too long": (f"{HEAD}\n{'x' * 129},Mug,1,1,\n", 2, 1, "129 characters"),
    "name too long": (f"{HEAD}\nA,{'x' * 501},1,1,\n", 2, 2, "501 characters"),
    "quantity a word": (f"{HEAD}\nA,Mug,many,1,\n", 2, 3, "'many' is not a whole number"),
    "quantity zero": (f"{HEAD}\nA,Mug,0,1,\n", 2, 3, "not a whole number from 1"),
    "quantity negative": (f"{HEAD}\nA,Mug,-3,1,\n", 2, 3, "not a whole number from 1"),
    "quantity a fraction": (f"{HEAD}\nA,Mug,1.5,1,\n", 2, 3, "not a whole number"),
    "quantity over integer": (f"{HEAD}\nA,Mug,2147483648,1,\n", 2, 3, "2,147,483,647"),
    "quantity in other digits": (f"{HEAD}\nA,Mug,١٢,1,\n", 2, 3, "not a whole number"),
    "quantity of 5,000 digits": (f"{HEAD}\nA,Mug,{'9' * 5000},1,\n", 2, 3, "not a whole number"),
    "quantity empty": (f"{HEAD}\nA,Mug,,1,\n", 2, 3, "quantity is empty"),
    "cost negative": (f"{HEAD}\nA,Mug,1,-1,\n", 2, 4, "not a decimal number from 0"),
    "cost with currency": (f"{HEAD}\nA,Mug,1,$1.50,\n", 2, 4, "without currency"),
    "cost with a comma": (f'{HEAD}\nA,Mug,1,"1,50",\n', 2, 4, "1,50 is written 1.50"),
    "cost with thousands": (f'{HEAD}\nA,Mug,1,"1.234,50",\n', 2, 4, "has a comma"),
    "cost of 5 decimals": (f"{HEAD}\nA,Mug,1,1.00001,\n", 2, 4, "more than 4 decimals"),
    "cost too high": (f"{HEAD}\nA,Mug,1,100000000,\n", 2, 4, "99,999,999.9999"),
    "cost not a number": (f"{HEAD}\nA,Mug,1,NaN,\n", 2, 4, "not a decimal number"),
    "cost with exponent": (f"{HEAD}\nA,Mug,1,1e3,\n", 2, 4, "not a decimal number"),
    "url of another scheme": (f"{HEAD}\nA,Mug,1,1,javascript:alert(1)\n", 2, 5, "not a web address"),
    "url without host": (f"{HEAD}\nA,Mug,1,1,https:///p\n", 2, 5, "not a web address"),
    "url with a broken port": (f"{HEAD}\nA,Mug,1,1,http://x:99999/\n", 2, 5, "not a web address"),
    "url with a space": (f"{HEAD}\nA,Mug,1,1,http://x/a b\n", 2, 5, "not a web address"),
    "url too long": (f"{HEAD}\nA,Mug,1,1,http://x/{'a' * 2048}\n", 2, 5, "characters"),
    "too few fields": (f"{HEAD}\n{GOOD}\nA,Mug,1\n", 3, 4, "3 fields where the header has 5"),
    "too many fields": (f"{HEAD}\nA,Mug,1,1,50,\n", 2, 6, "6 fields where the header has 5"),
    "NUL": (f"{HEAD}\nA\0B,Mug,1,1,\n", 2, 1, "NUL byte at character 2"),
    "UTF-16 without mark": (HEAD.encode("utf-16-le"), 1, 1, "NUL bytes"),
    "UTF-16": (HEAD.encode("utf-16"), 1, 1, "UTF-16"),
    "escape sequence": (f"{HEAD}\nA,Mug\x1b[2J,1,1,\n", 2, 2, "unprintable"),
    "line break in a name": (f'{HEAD}\n{GOOD}\nA,"Mug\nblue",1,1,\n', 3, 2, "unprintable"),
    "Windows-1252": (f"{HEAD}\r\n{GOOD}\r\nA,Caf".encode() + b"\xe9,1,1,\r\n", 3, 6, "byte 0xE9"),
    "bad byte after a mark": (b"\xef\xbb\xbfsku,\xff", 1, 5, "byte 0xFF"),
    "bad byte after characters": (f"{HEAD}\nÄÖ,".encode() + b"\xe9\n", 2, 6, "byte 0xE9"),
    "cut character": (f"{HEAD}\nA,Ä".encode()[:-1], 2, 3, "byte 0xC3"),
    "bad byte far down": (f"{HEAD}\n".encode() + b"\r\n" * 100_000 + b"\xff", 100_002, 1, "0xFF"),
    "unclosed quote": (f'{HEAD}\n{GOOD}\nA,"Mug,1,1,\n{GOOD}\n', 3, 2, "opens here and is never closed"),
    "unclosed quote in a later line of the row": (
        f'{HEAD}\nA,"Mug\n""blue""","1\n{GOOD}\n',
        3,
        3,
        "opens here and is never closed",
    ),
    "unclosed quote in the header": (f'sku,"product_name\n{GOOD}\n', 1, 2, "never closed"),
    "text after a quoted field": (f'{HEAD}\nA,"5" pipe",1,1,\n', 2, 1, "this is not CSV"),
    "huge field": (f"{HEAD}\nA,{'x' * 200_000},1,1,\n", 2, 1, "a field of over 131,072"),
    "huge quoted field": (f'{HEAD}\n{GOOD}\nA,"' + "x\n" * 100_000, 3, 2, "never closed"),
    "huge line": (f"{HEAD}\n" + "x," * 600_000, 2, 1, "a row of over 1,048,576"),
    "duplicate sku": (f"{HEAD}\n{GOOD}\nB,Mug,1,1,\n{GOOD}\n", 4, 1, "'A-1' is on line 2 already"),
    "order number changes": (
        "order_number,sku,product_name,quantity,unit_cost\n1,A,a,1,1\n1,B,b,1,1\n2,C,c,1,1\n",
        4,
        1,
        "'2' here and '1' in --number",
    ),
    "merchant is no id": (
        "merchant,sku,product_name,quantity,unit_cost\nmy shop,A,a,1,1\n",
        2,
        1,
        "not an id",
    ),
}


@pytest.mark.parametrize(("content", "line", "column", "what"), CSV_FAULTS.values(), ids=CSV_FAULTS)
def test_a_fault_in_csv_is_told_by_line_and_column(
    tmp_path: Path, content: str | bytes, line: int, column: int, what: str
) -> None:
    path = written(tmp_path, content)
    error = refusal(path)
    first = str(error).splitlines()[0]
    assert (error.line, error.column) == (line, column), first
    assert first.startswith(f"{path}:{line}:{column}: ")
    assert what in first
    assert re.search(r"; \w+", first), "no word on what to do"
    assert len(first) < 500


JSON_FAULTS = {
    "empty": ("", 1, 1, "empty"),
    "an array": ('\n [{"sku": "A"}]', 2, 2, "not an object"),
    "no lines": ('{"merchant": "m"}', 1, 18, "no lines"),
    "empty object": ("{}", 1, 3, "no lines"),
    "empty lines": ('{"lines": []}', 1, 12, "no lines"),
    "lines no array": ('{"lines": {}}', 1, 11, "not an array"),
    "unknown key": ('{\n  "items": []}', 2, 3, "unknown key 'items'"),
    "key twice": ('{"merchant": "m", "merchant": "m"}', 1, 19, "a second 'merchant'"),
    "merchant a number": ('{"merchant": 7, "lines": [1]}', 1, 14, "not a text"),
    "merchant another": ('{"merchant": "x", "lines": [1]}', 1, 14, "'x' here and 'm' in --merchant"),
    "line no object": ('{"lines": [\n 3]}', 2, 2, "not an object"),
    "unknown field": (order(colour="red"), 7, 11, "unknown key 'colour'"),
    "nested field": (order(quantity={"a": 1}), 5, 13, "neither text nor number"),
    "quantity a fraction": (order(quantity=1.0), 5, 13, "'1.0' is not a whole number"),
    "quantity true": (order(quantity=True), 5, 13, "neither text nor number"),
    "cost of too many decimals": (order(unitCost=0.30000000000000004), 6, 13, "more than 4 decimals"),
    "cost infinite": (order(unitCost=float("inf")), 6, 13, "not a decimal number"),
    "sku a number": (order(sku=12), 3, 8, "write it in double quotes"),
    "sku null": (order(sku=None), 3, 8, "sku is empty"),
    "name with NUL": (order(productName="a\0b"), 4, 16, "NUL byte"),
    "name with half a character": (order(productName="a\ud800"), 4, 16, "unprintable"),
    "field missing": ('{"lines": [\n  {"sku": "A", "productName": "a", "quantity": 1}]}', 2, 3, "unit_cost"),
    "field twice": (
        '{"lines": [{"sku": "A", "SKU": "B", "productName": "a", "quantity": 1, "unitCost": 1}]}',
        1,
        32,
        "a second 'SKU'",
    ),
    "duplicate sku": (
        '{"lines": [\n' + ",\n".join(['{"sku":"A","productName":"a","quantity":1,"unitCost":1}'] * 2) + "]}",
        3,
        8,
        "'A' is on line 2 already",
    ),
    "missing comma": ('{"lines": [\n{"sku": "A"\n "b": 1}]}', 3, 2, "Expecting ',' delimiter"),
    "missing comma between lines": ('{"lines": [\n{}\n {}]}', 3, 2, "expected , or ]"),
    "trailing comma": ('{"lines": [1,\n]}', 2, 1, "Expecting value"),
    "open string": ('{"lines": [\n{"sku": "A}]}', 2, 9, "Unterminated string"),
    "ends early": ('{"lines": [\n{}\n', 3, 1, "the end of the file"),
    "ends after a comma": ('{"lines": [{},\n', 2, 1, "ends in the middle"),
    "something follows": ('{"lines": [1]}\n x', 2, 2, "something follows"),
    "nested too deeply": ('{"lines": [\n' + "[" * 500_000, 2, 1, "nested too deeply"),
    "huge value": ('{"lines": [\n"' + "x" * 1_200_000 + '"]}', 2, 1, "1,048,576 characters"),
    "bad byte": (b'{"merchant":\n"\xe9"}', 2, 2, "byte 0xE9"),
    "not JSON at all": ("hello", 1, 1, "not an object"),
}


SMALL = {name: fault for name, fault in JSON_FAULTS.items() if len(fault[0]) < 10_000}


@pytest.mark.parametrize(
    ("fault", "chunk"),
    [
        *(pytest.param(fault, json_file.CHUNK, id=name) for name, fault in JSON_FAULTS.items()),
        *(pytest.param(fault, 7, id=f"{name}, cut") for name, fault in SMALL.items()),
    ],
)
def test_a_fault_in_json_is_told_by_line_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: tuple[str | bytes, int, int, str], chunk: int
) -> None:
    content, line, column, what = fault
    whole = json_file.scan
    monkeypatch.setattr(json_file, "scan", lambda path, seen: whole(path, seen, chunk))
    error = refusal(written(tmp_path, content, "order.json"))
    first = next(told for told in str(error).splitlines() if what in told)
    assert f":{line}:{column}: " in first
    assert (error.line, error.column) <= (line, column)


@pytest.mark.parametrize("chunk", range(1, 30))
def test_a_number_that_a_chunk_cuts_is_one_number(tmp_path: Path, chunk: int) -> None:
    path = written(tmp_path, '{"lines": [123456789, 1]}', "order.json")
    items = list(json_file.scan(path, skus.forgotten, chunk))
    assert [(item.line, item.column) for item in items if isinstance(item, Problem)] == [(1, 12), (1, 23)]


def test_all_problems_are_told_up_to_twenty_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEAD}\n" + "".join(f"A{n},,x,1,\n" for n in range(30)))
    told = str(refusal(path)).splitlines()
    assert len(told) == 21
    assert told[1].startswith(f"{path}:2:3: ")
    assert told[-1] == "and 40 more"


def test_a_sku_is_a_duplicate_though_its_first_line_is_faulty(tmp_path: Path) -> None:
    error = refusal(written(tmp_path, f"{HEAD}\nA,,1,1,\nA,Mug,1,1,\n"))
    assert [told.split(": ")[0].split(":", 1)[1] for told in str(error).splitlines()] == ["2:2", "3:1"]


LINE = OrderLine("A-1", "Blue mug", 12, Decimal("4.50"), "https://shop.example/p/1", 2)


@pytest.mark.parametrize(
    "content",
    [
        f"{HEAD}\n{GOOD}\n",
        f"\ufeff{HEAD}\r\n{GOOD}\r\n",
        f"{HEAD}\n{GOOD}".replace(",", ";"),
        f"{HEAD}\n{GOOD}".replace(",", "\t"),
        f"{HEAD}\r{GOOD}\r",
        f"{HEAD}\n{GOOD}\n\n,,,,\n",
        f'"SKU","Product Name","Quantity","unitCost","product-url"\n{GOOD}\n',
        'quantity,sku,unit_cost,product_url,product_name\n12,"A-1", 4.50 ,https://shop.example/p/1,Blue mug',
    ],
)
def test_csv_as_spreadsheets_write_it_is_read(tmp_path: Path, content: str) -> None:
    found = read_order(written(tmp_path, content), "m", "PO 7")
    assert found.header == OrderHeader("m", None, "PO 7")
    assert list(found.lines()) == [LINE]
    assert found.count == 1


def test_a_quote_inside_a_plain_field_is_part_of_it(tmp_path: Path) -> None:
    found = read_order(written(tmp_path, f'{HEAD}\nA,Pipe 5",1,1,\nB,"Pipe 6""",1,1,\n'), "m", "1")
    assert [line.product_name for line in found.lines()] == ['Pipe 5"', 'Pipe 6"']


def test_columns_and_keys_name_the_order(tmp_path: Path) -> None:
    head, line = "Merchant ID,merchant_name,orderNumber," + HEAD, f"m1,The Shop,PO-1,{GOOD}"
    document = {
        "lines": [{"sku": "A-1", "productName": "Blue mug", "quantity": 12, "unitCost": 4.5}],
        "merchant": "m1",
        "merchantName": "The Shop",
        "orderNumber": "PO-1",
    }
    for path in (
        written(tmp_path, f"{head}\n{line}\n"),
        written(tmp_path, json.dumps(document), "order.json"),
    ):
        assert read_order(path).header == OrderHeader("m1", "The Shop", "PO-1")


def test_an_order_without_merchant_or_number_is_refused_with_the_option(tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEAD}\n{GOOD}\n")
    with pytest.raises(InputFileError, match="--number"):
        read_order(path, merchant="m")
    with pytest.raises(InputFileError, match="--merchant"):
        read_order(path, number="1")
    with pytest.raises(UsageError, match=r"--merchant: .* is not an id"):
        read_order(path, merchant="a b", number="1")


def test_two_orders_in_one_file_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, f"number,merchant,{HEAD}\n1,m,{GOOD}\n2,m,{GOOD.replace('A-1', 'B')}\n")
    with pytest.raises(InputFileError, match="'2' here and '1' on line 2") as caught:
        read_order(path)
    assert (caught.value.line, caught.value.column) == (3, 1)


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputFileError, match="No such file"):
        read_order(tmp_path / "none.csv", "m", "1")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputFileError, match="read twice"):
            read_order(path, "m", "1")


def test_a_file_that_changes_between_check_and_use_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEAD}\n{GOOD}\n")
    checked = read_order(path, "m", "1")
    written(tmp_path, f"{HEAD}\n{GOOD}\nB,Mug,1,1,\n")
    with pytest.raises(InputFileError, match="changed"):
        list(checked.lines())
    written(tmp_path, f"{HEAD}\n{GOOD},\n")
    with pytest.raises(InputFileError, match="6 fields"):
        list(checked.lines())


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Zs"]), min_size=1)
LINES = st.lists(
    st.builds(
        OrderLine,
        sku=WORDS,
        product_name=WORDS,
        quantity=st.integers(1, 2**31 - 1),
        unit_cost=st.decimals(0, Decimal("99999999.9999"), places=4),
        product_url=st.sampled_from([None, "http://x/", "https://shop.example:8443/ä?a=1,2;3#x"]),
        line=st.just(0),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda line: line.sku,
)


def without_place(found: OrderFile) -> list[OrderLine]:
    return [
        OrderLine(line.sku, line.product_name, line.quantity, line.unit_cost, line.product_url, 0)
        for line in found.lines()
    ]


@given(
    lines=LINES,
    delimiter=st.sampled_from(",;\t"),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    mark=st.booleans(),
)
def test_csv_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    lines: list[OrderLine],
    delimiter: str,
    ending: str,
    quoting: int,
    mark: bool,
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ending, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow(HEAD.split(","))
    writer.writerows(
        [line.sku, line.product_name, line.quantity, line.unit_cost, line.product_url] for line in lines
    )
    path = written(tmp_path_factory.mktemp("csv"), ("\ufeff" if mark else "") + text.getvalue())
    assert without_place(read_order(path, "m", "1")) == lines


@given(
    lines=LINES,
    indent=st.sampled_from([None, 0, 2, 40]),
    escaped=st.booleans(),
    chunk=st.integers(1, 200),
    cost=st.sampled_from([str, float]),
)
def test_json_gives_back_what_was_written_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    lines: list[OrderLine],
    indent: int | None,
    escaped: bool,
    chunk: int,
    cost: type,
) -> None:
    document = {
        "merchant": "m",
        "lines": [
            {
                "sku": line.sku,
                "productName": line.product_name,
                "quantity": line.quantity,
                "unitCost": cost(line.unit_cost) if cost is str or line.unit_cost > 0.001 else 0,
                "productUrl": line.product_url,
            }
            for line in lines
        ],
        "orderNumber": "1",
    }
    text = json.dumps(document, indent=indent, ensure_ascii=escaped)
    path = written(tmp_path_factory.mktemp("json"), text, "order.json")
    with skus.remembered() as seen:
        items = list(json_file.scan(path, seen, chunk))
    assert not [item for item in items if isinstance(item, Problem)]
    found = [item for item in items if isinstance(item, OrderLine)]
    assert [(line.sku, line.product_name, line.quantity, line.product_url) for line in found] == [
        (line.sku, line.product_name, line.quantity, line.product_url) for line in lines
    ]
    if cost is str:
        assert [line.unit_cost for line in found] == [line.unit_cost for line in lines]
    if indent is not None:
        starts = [at for at, row in enumerate(text.split("\n"), 1) if row.strip() == "{"][1:]
        assert [line.line for line in found] == starts
