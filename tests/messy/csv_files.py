"""CSV, in 80 ways."""

from __future__ import annotations

from datetime import UTC, date, datetime

from tests.messy.case import Case, refused, taken

NONE: list[str] = []

QUOTES = [
    taken("a line break in quotes", "pola-rs/polars#6328", b'a,b\n"x\n\ny",1\n', {"a": ["x\n\ny"], "b": [1]}),
    taken(
        "a line break that was written by a writer", "pola-rs/polars#4130", b'escape\n"n\nn"\n', {"escape": ["n\nn"]}
    ),
    taken(
        "quoted line breaks in a last column",
        "pola-rs/polars#4171",
        b'a,e\n1,"\n Test"\n4,Test A\n7,"Test B \n"\n',
        {"a": [1, 4, 7], "e": ["Test", "Test A", "Test B"]},
    ),
    taken(
        "a quoted line break where a thread's chunk ends",
        "pola-rs/polars#19078",
        b"a;b\n" + b'"x\ny";1\n' * 3,
        {"a": ["x\ny"] * 3, "b": [1] * 3},
        delimiter=";",
    ),
    refused(
        "apostrophes' cousins: quotes in names",
        "pola-rs/polars#1528",
        b'n,last,first\n1,Jagger,Mick\n2,O"Brian,Mary\n',
        "stray_quote",
        "row 2",
    ),
    refused(
        "a doubled quote where one opens", "pola-rs/polars#22816", b'k,v\nfoo,"" aaaa ",""\n', "stray_quote", "row 1"
    ),
    refused(
        "a quote that is closed too late",
        "pola-rs/polars#8843",
        b'a,b\n"4] <A>Brown</A>",1\n"5] <A>Jenniskens</A>,2\n"7) Shiba",3\n',
        "stray_quote",
        "row 2",
    ),
    refused(
        "quoted words within a quoted cell",
        "pola-rs/polars#14929",
        b'a,b\n"he said "no" to it",1\n',
        "stray_quote",
        "row 1",
    ),
    refused(
        "backslash as escape, then a comma",
        "Rdatatable/data.table#1764",
        rb"a,b" + b"\n" + rb'"This col, \"quoted\", is a problem",1' + b"\n",
        "stray_quote",
        "row 1",
    ),
    refused(
        "balanced quotes at the start of a cell",
        "Rdatatable/data.table#1809",
        b'V1,V2\n"This" is a test,100\n',
        "stray_quote",
        "row 1",
    ),
    refused(
        "an address with quoted parts",
        "Rdatatable/data.table#2638",
        b'http,size\n"www.blah?x="one",y="two"",123\n',
        "stray_quote",
        "row 1",
    ),
    refused(
        "a street that is quoted twice",
        "New Jersey accidents of 2013, Rdatatable/data.table#1095",
        b'id,street\n1,""A"" ST\n',
        "stray_quote",
        "row 1",
    ),
    refused(
        "half a cell in quotes, tabs around",
        "Rdatatable/data.table#1079",
        b'a\tb\nL2\t"half" quoted\n',
        "stray_quote",
        "row 1",
        delimiter="\t",
    ),
    refused("a doubled quote, and no end", "Rdatatable/data.table#1077", b'a,b\n""foo,bar\n', "stray_quote", "row 1"),
    refused(
        "JSON in a cell, not quoted",
        "Rdatatable/data.table#132",
        b'id|data\n1|{"imei":"60893"}\n',
        "stray_quote",
        "row 1",
        delimiter="|",
    ),
    refused(
        "a quote in the middle of a stop's name",
        "duckdb/duckdb#14883",
        b'stop_id,stop_name\n1,Main "St" & 1st\n',
        "stray_quote",
        "row 1",
    ),
    taken(
        "JSON in a cell, quoted",
        "RFC 4180, 2.7",
        b'id,data\n1,"{""a"": [1, 2]}"\n',
        {"id": [1], "data": ['{"a": [1, 2]}']},
    ),
    taken(
        "a quoted cell that holds the delimiter",
        "duckdb/duckdb#19578",
        b'Country;Location;Count\nChina;"35.86;104.19";97100,7\n',
        {"Country": ["China"], "Location": ["35.86;104.19"], "Count": [97100.7]},
        delimiter=";",
        decimal=",",
    ),
    taken(
        "single quotes are characters",
        "duckdb/duckdb#16215",
        b"d,t\n1/1/19,\"text, with comma\"\n1/9/19,'text'\n",
        {"d": ["1/1/19", "1/9/19"], "t": ["text, with comma", "'text'"]},
    ),
    taken("nothing but quotes", "RFC 4180, 2.7", b'a,b\n"""""",""""\n', {"a": ['""'], "b": ['"']}),
    taken("a quoted number is a number", "pandas-dev/pandas#13746", b'a,b\n"1",1\n1,"1"\n', {"a": [1, 1], "b": [1, 1]}),
    refused("a quote behind a space", "Rdatatable/data.table#1256", b'x,y\nx1, "oops"\n', "stray_quote", "row 1"),
    refused("a quote that is never closed", "RFC 4180, 2.5", b'a,b\n1,2\n3,"4\n5,6\n', "unclosed_quote", "row 2"),
    refused("a quote that opens as the file ends", "RFC 4180, 2.5", b'a,b\n1,2\n3,"', "unclosed_quote", "row 2"),
]

LINES = [
    refused(
        "old Macintosh: carriage returns alone",
        "JoshClose/CsvHelper#1087",
        b"a,b\r1,2\r3,4\r",
        "stray_carriage_return",
        "header",
    ),
    taken(
        "CRLF in the header, LF below",
        "Rdatatable/data.table#1183",
        b'"groupid","year"\r\n1,1999\n2,2000\n',
        {"groupid": [1, 2], "year": [1999, 2000]},
    ),
    taken(
        "LF above, CRLF below",
        "Rdatatable/data.table#1183",
        b"a,b\n1,x\r\n2,y\n3,z\r\n",
        {"a": [1, 2, 3], "b": ["x", "y", "z"]},
    ),
    taken(
        "CR CR LF of a file that was converted twice",
        "git's core.autocrlf",
        b"a,b\r\r\n1,2\r\r\n",
        {"a": [1], "b": [2]},
    ),
    refused("a carriage return within a cell", "RFC 4180, 2.6", b"a,b\nx\ry,1\n", "stray_carriage_return", "row 1"),
    taken("a carriage return within quotes", "RFC 4180, 2.6", b'a,b\n"x\ry",1\n', {"a": ["x\ry"], "b": [1]}),
    taken("no line break at the end", "RFC 4180, 2.2", b"a,b\n1,2\n3,4", {"a": [1, 3], "b": [2, 4]}),
    taken(
        "a line separator of Unicode is a character",
        "Python's str.splitlines",
        "a,b\nx\u2028y,1\n".encode(),
        {"a": ["x\u2028y"], "b": [1]},
    ),
    taken("a form feed is a character", "Python's str.splitlines", b"a,b\nx\x0cy,1\n", {"a": ["x\x0cy"], "b": [1]}),
    refused("an empty line after the header", "pandas-dev/pandas#5697", b"x,y\n\n1,2\n", "ragged_row", "row 1"),
    taken(
        "an empty line in a column of its own",
        "pandas-dev/pandas#5697",
        b"x\n\n1111111111111111111\n",
        {"x": [None, 1111111111111111111]},
    ),
    refused("an empty line between blocks", "gnuplot's data blocks", b"x,y\n1,2\n\n\n3,4\n", "ragged_row", "row 2"),
    taken("empty lines at the end", "Excel's CSV export", b"a,b\r\n1,2\r\n\r\n\r\n", {"a": [1], "b": [2]}),
    refused("rows of commas alone, one too many", "Excel's CSV export", b"a,b\n1,2\n,,\n", "ragged_row", "row 2"),
    taken(
        "rows of commas alone", "Excel's CSV export", b"a,b\n1,2\n,\n,\n", {"a": [1, None, None], "b": [2, None, None]}
    ),
    refused("Ctrl-Z at the end", "CP/M and DOS", b"a,b\n1,2\n\x1a", "ragged_row", "row 2"),
    refused(
        "a line of totals at the end",
        "reports of statistics offices",
        b"a,b\n1,2\nTotal: 1 row\n",
        "ragged_row",
        "row 2",
    ),
    refused(
        "a title above the header",
        "data.worldbank.org downloads",
        b'"Data Source","World Development Indicators",\n\n"Country Name","1960"\n',
        "empty_name",
        "header, column 3",
    ),
    refused(
        "a separator line of Excel",
        "Excel's sep=",
        b"sep=;\na;b\n1;2\n",
        "empty_name",
        "header, column 2",
        delimiter=";",
    ),
    refused(
        "comments above", "pola-rs/polars#21441", b'# metadata\nVERSION,1.0.0\nA,"foo, bar",1\n', "ragged_row", "row 1"
    ),
    refused(
        "an ARFF file", "UCI and Weka", b"@relation iris\n@attribute a numeric\n@data\n5.1,3.5\n", "ragged_row", "row 3"
    ),
]

SHAPES = [
    refused(
        "a trailing comma in a row", "duckdb/duckdb#8231", b"id,name,lat,lon\n1,name,0,0,\n", "ragged_row", "row 1"
    ),
    refused(
        "a trailing comma in the header",
        "duckdb/duckdb#8231",
        b"id,name,lat,lon,\n1,name,0,0\n",
        "empty_name",
        "header, column 5",
    ),
    refused(
        "a name less than columns: R's row names",
        "R's write.table",
        b"sepal,species\n1,5.1,setosa\n",
        "ragged_row",
        "row 1",
    ),
    refused("an index without a name", "pandas' to_csv", b",a\n0,1\n1,2\n", "empty_name", "header, column 1"),
    refused("empty columns behind", "thephpleague/csv#543", b"a,b,,\n1,2,,\n", "empty_name", "header, column 3"),
    refused(
        "a language twice",
        "swiftcsv/SwiftCSV#134",
        b"en,comment,de,en\nEfficiency,,,\n",
        "duplicate_name",
        "header, column 4",
    ),
    refused(
        "names that differ by a space", "apache/commons-csv#279", b"a, a\n1,2\n", "duplicate_name", "header, column 2"
    ),
    taken("names that differ by case", "SQL's folding of names", b"Id,ID\n1,2\n", {"Id": [1], "ID": [2]}),
    refused("more cells than names", "pola-rs/polars#14547", b"a,b\n1,2\n1,2,3\n", "ragged_row", "row 2"),
    refused(
        "fewer cells than names", "duckdb/duckdb#15576", b"a;b;c\n1;2;3\n1;2\n", "ragged_row", "row 2", delimiter=";"
    ),
    refused(
        "a wrong delimiter leaves one column, and then not",
        "duckdb/duckdb#14115",
        b"FlightDate|City\n1988-01-01|New York, NY\n",
        "ragged_row",
        "row 1",
    ),
    taken(
        "a bar as delimiter",
        "duckdb/duckdb#6011",
        b"category_id|name|last_update\n1|Action|2006-02-15 04:46:27\n",
        {"category_id": [1], "name": ["Action"], "last_update": [datetime(2006, 2, 15, 4, 46, 27)]},  # noqa: DTZ001
        delimiter="|",
    ),
    taken(
        "a header that is data without one",
        "duckdb/duckdb#6011",
        b"id|name\n1|Action\n",
        {"c0": ["id", "1"], "c1": ["name", "Action"]},
        delimiter="|",
        header=False,
    ),
    taken("header alone is a row without one", "RFC 4180, 2.3", b"a,b\n", {"c0": ["a"], "c1": ["b"]}, header=False),
    refused("header alone", "RFC 4180, 2.3", b"a,b\n", "no_rows", "row 1"),
    refused("nothing", "touch(1)", b"", "empty_file", "header"),
    refused("a line break alone", "echo(1)", b"\n", "empty_name", "header, column 1"),
    refused("a byte order mark alone", "Windows' Notepad", b"\xef\xbb\xbf", "empty_file", "header"),
    refused("spaces in place of a delimiter", "the adult data set of UCI, in R", b"a b\n1, 2\n", "ragged_row", "row 1"),
    taken(
        "a space behind every comma",
        "the adult data set of UCI",
        b"39, State-gov, 77516, <=50K\n50, ?, 83311, >50K\n",
        {"c0": [39, 50], "c1": ["State-gov", None], "c2": [77516, 83311], "c3": ["<=50K", ">50K"]},
        header=False,
    ),
    taken(
        "a full stop behind the label",
        "adult.test of UCI",
        b"age,income\n25, <=50K.\n38, >50K.\n",
        {"age": [25, 38], "income": ["<=50K.", ">50K."]},
    ),
    taken(
        "question marks for gaps",
        "the heart disease data set of UCI",
        b"ca,thal\n0.0,6.0\n?,3.0\n3.0,?\n",
        {"ca": [0.0, None, 3.0], "thal": [6.0, 3.0, None]},
    ),
    taken("a dash for a gap", "tables of Eurostat", b"y,v\n2000,1.5\n2001,-\n", {"y": [2000, 2001], "v": [1.5, None]}),
    taken("Eurostat's colon is no gap by itself", "tables of Eurostat", b"v\n1.5\n:\n", {"v": ["1.5", ":"]}, null=[""]),
    taken("-999 for a gap, as said", "NOAA's station data", b"t\n-999\n12.5\n", {"t": [None, 12.5]}, null=["-999"]),
]

ENCODINGS = [
    taken(
        "a byte order mark before a quoted name",
        "pandas-dev/pandas#4793",
        b'\xef\xbb\xbf"Name","G"\nx,1\n',
        {"Name": ["x"], "G": [1]},
    ),
    taken(
        "a byte order mark before data",
        "pandas-dev/pandas#13497",
        b"\xef\xbb\xbf1,2\n",
        {"c0": [1], "c1": [2]},
        header=False,
    ),
    refused(
        "a second byte order mark",
        "cat(1) of two files",
        b"\xef\xbb\xbf\xef\xbb\xbfa,b\n1,2\n",
        "invalid_name",
        "header, column 1",
    ),
    taken(
        "a byte order mark within",
        "cat(1) of two files",
        b"a,b\n1,x\n\xef\xbb\xbf2,y\n",
        {"a": ["1", "\ufeff2"], "b": ["x", "y"]},
    ),
    refused(
        "Latin-1",
        "BroadbandNow/Open-Data#3",
        "a,b\n1,x\n2,Caf\u00e9\n".encode("latin-1"),
        "not_utf8",
        "row 2, column b",
    ),
    refused("Windows' curly quotes", "Windows-1252", b"a,b\n\x93x\x94,1\n", "not_utf8", "row 1, column a"),
    refused(
        "UTF-16 with a mark",
        "Excel's Unicode text",
        "a\tb\n1\t2\n".encode("utf-16"),
        "not_utf8",
        "row 1",
        delimiter="\t",
    ),
    refused(
        "UTF-16 without a mark",
        "SQL Server's bcp",
        "a,b\n1,2\n".encode("utf-16-le"),
        "nul_character",
        "header, column 1",
    ),
    refused("UTF-32", "iconv(1)", "a,b\n1,2\n".encode("utf-32-be"), "nul_character", "header, column 1"),
    refused("a NUL in a cell", "codeinthehole/csvfilter#8", b"a,b,c\n1,2\0,3\n", "nul_character", "row 1, column b"),
    refused(
        "NULs that fill a lost block",
        "backblaze-backup-checker#1",
        b"a,b\n1,2\n" + bytes(64) + b"\n",
        "nul_character",
        "row 2, column a",
    ),
    refused(
        "a surrogate in UTF-8", "CESU-8 of Oracle", b"a\n\xed\xa0\xbd\xed\xb8\x80\n", "not_utf8", "row 1, column a"
    ),
    refused("a character cut in two", "head -c", b"a\nx\n\xe5\x90\n", "not_utf8", "row 2, column a"),
    refused("an overlong slash", "RFC 3629, 10", b"a\n\xc0\xaf\n", "not_utf8", "row 1, column a"),
    taken(
        "letters of right-to-left scripts",
        "Unicode",
        "\u05e9\u05dd,n\n\u05d0,1\n".encode(),
        {"\u05e9\u05dd": ["\u05d0"], "n": [1]},
    ),
    refused(
        "an override of direction in a name",
        "CVE-2021-42574",
        "a\u202e,b\n1,2\n".encode(),
        "invalid_name",
        "header, column 1",
    ),
    taken(
        "digits of another script are letters",
        "Unicode's Nd",
        "n\n\u0661\n\u0662\n".encode(),
        {"n": ["\u0661", "\u0662"]},
    ),
    taken("a no-break space around a number", "French spreadsheets", "n\n\u00a05\u00a0\n7\n".encode(), {"n": [5, 7]}),
    taken(
        "a no-break space between thousands",
        "French spreadsheets",
        "n\n1\u00a0234\n7\n".encode(),
        {"n": ["1\u00a0234", "7"]},
    ),
    taken("a minus sign that is none", "typography, U+2212", "n\n\u22125\n5\n".encode(), {"n": ["\u22125", "5"]}),
]

NUMBERS = [
    taken(
        "codes with leading zeros",
        "USASpending-Issue-Tracker#21",
        b"zip\n02134\n90210\n",
        {"zip": [2134, 90210]},
        "1 of 2 values begin with a zero, which a number does not keep (first at row 1)",
    ),
    taken(
        "codes with leading zeros, quoted",
        "DOI-USGS/dataretrieval-python#420",
        b'p\n"00060"\n"00065"\n',
        {"p": [60, 65]},
        "2 of 2 values begin with a zero",
    ),
    taken(
        "a number of nineteen digits",
        "pandas-dev/pandas#48170",
        b"c,d\n,1\n1234567890123456789,\n",
        {"c": [None, 1234567890123456789], "d": [1, None]},
    ),
    taken(
        "beyond 64 bits, with gaps",
        "NVIDIA/cudf#7088",
        b"n,k\n,1\n17758512297797920768,2\n3374168267804635136,3\n",
        {"n": [None, 1.7758512297797920768e19, 3.374168267804635136e18], "k": [1, 2, 3]},
    ),
    taken(
        "beyond 64 bits, and digits lost",
        "JuliaData/CSV.jl#1082",
        b"id\n9223372036854775809\n1\n",
        {"id": [9223372036854775808.0, 1.0]},
        "1 of 2 values are whole numbers too large to be kept exactly here (first at row 1)",
    ),
    taken(
        "one exponent among long numbers",
        "pandas-dev/pandas#2697",
        b"id\n135217135789158401\n1352171357E+5\n",
        {"id": [135217135789158400.0, 135217135700000.0]},
        "1 of 2 values are whole numbers too large to be kept exactly here (first at row 1)",
    ),
    taken(
        "a long number with a fraction",
        "pandas-dev/pandas#12340",
        b"id\n6144039378640938.000000\n6144053114071082.000000\n",
        {"id": [6144039378640938.0, 6144053114071082.0]},
    ),
    taken(
        "the ends of 64 bits",
        "two's complement",
        b"n\n9223372036854775807\n-9223372036854775808\n",
        {"n": [2**63 - 1, -(2**63)]},
    ),
    refused("an exponent too large", "pandas-dev/pandas#62542", b"n\n1.5\n1e400\n", "invalid_data", "row 2, column n"),
    refused(
        "infinity in a column of numbers", "NVIDIA/cudf-spark#126", b"n\n1.5\ninf\n", "invalid_data", "row 2, column n"
    ),
    refused("infinity, spelt out", "C's strtod", b"n\n1.5\n-Infinity\n", "invalid_data", "row 2, column n"),
    taken(
        "many digits",
        "vincentlaucsb/csv-parser#92",
        b"n\n0.1000000000000000055511151231257827\n9.99e-06\n",
        {"n": [0.1, 9.99e-06]},
    ),
    taken("the smallest float", "IEEE 754", b"n\n5e-324\n-0.0\n", {"n": [5e-324, -0.0]}),
    taken(
        "a number and text in the end",
        "pandas-dev/pandas#36103",
        b"v\n" + b"1.5\n" * 19 + b"Bad Input\n",
        {"v": ["1.5"] * 19 + ["Bad Input"]},
        "1 of 20 values are not numbers (first at row 20)",
    ),
    taken("a chunk of texts in the middle", "pandas-dev/pandas#9669", b"n\n1\nX\n1\n", {"n": ["1", "X", "1"]}),
    taken("thousands with commas", "pandas' thousands=", b'n\n"1,234"\n"2,345.5"\n', {"n": ["1,234", "2,345.5"]}),
    taken(
        "thousands with points, decimal comma",
        "pola-rs/polars#18797",
        b"n;m\n1.299,99;1,5\n",
        {"n": ["1.299,99"], "m": [1.5]},
        delimiter=";",
        decimal=",",
    ),
    taken(
        "decimal commas",
        "JuliaData/CSV.jl#83",
        b"123;M;456,78;90\n",
        {"c0": [123], "c1": ["M"], "c2": [456.78], "c3": [90]},
        delimiter=";",
        decimal=",",
        header=False,
    ),
    taken(
        "decimal commas that are not said",
        "pola-rs/polars#6698",
        b"colx;coly\n10,20;4,5\n",
        {"colx": ["10,20"], "coly": ["4,5"]},
        "column colx: its values are numbers if the decimal mark is a comma",
        "column coly: its values are numbers if the decimal mark is a comma",
        delimiter=";",
    ),
    taken("decimal commas in quotes", "tidyverse/readr#1445", b'a,b\n"1,5",2\n', {"a": [1.5], "b": [2]}, decimal=","),
    taken(
        "percent and currency",
        "halloffame/ynab-csv#28",
        "p,e\n5%,12\u20ac\n6%,13\u20ac\n".encode(),
        {"p": ["5%", "6%"], "e": ["12\u20ac", "13\u20ac"]},
    ),
    taken("a number in brackets is negative to accountants", "Excel's formats", b"n\n(5)\n6\n", {"n": ["(5)", "6"]}),
    taken("underscores", "Python's int", b"n\n1_000\n2\n", {"n": ["1_000", "2"]}),
    taken(
        "hexadecimal and octal",
        "C's strtol",
        b"n,o\n0x1F,0o7\n0x20,0o10\n",
        {"n": ["0x1F", "0x20"], "o": ["0o7", "0o10"]},
    ),
    taken("the letter d for an exponent", "Fortran", b"n\n1.5D+3\n2.5D+3\n", {"n": ["1.5D+3", "2.5D+3"]}),
    taken("a formula", "CWE-1236", b'n\n=1+1\n"=HYPERLINK(""x"")"\n', {"n": ["=1+1", '=HYPERLINK("x")']}),
    taken(
        "names that became dates",
        "gene symbols and Excel, Ziemann et al. 2016",
        b"gene\nMARCH1\n1-Mar\n",
        {"gene": ["MARCH1", "1-Mar"]},
    ),
    taken(
        "a clone id that looks like an exponent",
        "RIKEN ids, Zeeberg et al. 2004",
        b"id\n2310009E13\n1.5\n",
        {"id": [2.310009e19, 1.5]},
    ),
]

WORDS = [
    taken("Namibia", "datasets/country-codes#38", b"code,n\nNA,1\nDE,2\n", {"code": [None, "DE"], "n": [1, 2]}),
    taken(
        "Namibia, kept",
        "datasets/country-codes#38",
        b"code,n\nNA,1\nDE,\n",
        {"code": ["NA", "DE"], "n": [1, None]},
        null=[""],
    ),
    taken(
        "Namibia in quotes is missing too",
        "vincentarelbundock/countrycode#261",
        b'x,y\n"1","NA"\n"NA","2"\n',
        {"x": [1, None], "y": [None, 2]},
    ),
    taken("a Mr Null", "Wired, 2015", b"name,n\nNull,1\nnull,2\n", {"name": ["Null", None], "n": [1, 2]}),
    taken("Norway is no boolean", "the Norway problem of YAML", b"c\nno\nyes\n", {"c": ["no", "yes"]}),
    taken("truth in two spellings", "R and Python", b"b\nTRUE\nFalse\n", {"b": [True, False]}),
    taken("truth and a number", "SQLite's booleans", b"b\ntrue\n0\n", {"b": ["true", "0"]}),
    taken("t and f", "PostgreSQL's COPY", b"b\nt\nf\n", {"b": ["t", "f"]}),
    taken("a backslash and N is no gap by itself", "PostgreSQL's COPY, MySQL", b"v\n\\N\nx\n", {"v": ["\\N", "x"]}),
    taken(
        "an empty text and a gap are the same",
        "PostgreSQL's COPY CSV",
        b'a,b\n"",1\n,2\nx,3\n',
        {"a": [None, None, "x"], "b": [1, 2, 3]},
    ),
]

DATES = [
    taken(
        "days before months",
        "pandas-dev/pandas#14301",
        b"EuroDate\n10/9/2016\n30/9/2016\n",
        {"EuroDate": ["10/9/2016", "30/9/2016"]},
    ),
    taken(
        "two ways to write a day",
        "pandas-dev/pandas#37895",
        b"t\n13/06/2018\n12/06/2018\n",
        {"t": ["13/06/2018", "12/06/2018"]},
    ),
    taken(
        "a date that is none below", "pola-rs/polars#10826", b"c\n2023-01-01\nX\nX\n", {"c": ["2023-01-01", "X", "X"]}
    ),
    taken(
        "the 30th of February",
        "pandas-dev/pandas#35520",
        b"c\n2023-01-01\n2023-02-30\n",
        {"c": ["2023-01-01", "2023-02-30"]},
        "its values look like dates or times",
    ),
    taken(
        "a date among times",
        "duckdb/duckdb#11840",
        b"c\n2023-01-01\n2023-02-01 10:00:00\n",
        {"c": ["2023-01-01", "2023-02-01 10:00:00"]},
        "its values look like dates or times",
    ),
    taken(
        "an offset",
        "pola-rs/polars#6886",
        b"c\n2021-03-31T00:00:00+01:00\n2021-03-31T01:00:00Z\n",
        {"c": [datetime(2021, 3, 30, 23, tzinfo=UTC), datetime(2021, 3, 31, 1, tzinfo=UTC)]},
    ),
    taken(
        "offsets of summer and winter",
        "pandas-dev/pandas#24987",
        b"c\n2017-04-22T15:11:58-0500\n2017-03-09T11:15:30-0600\n",
        {"c": [datetime(2017, 4, 22, 20, 11, 58, tzinfo=UTC), datetime(2017, 3, 9, 17, 15, 30, tzinfo=UTC)]},
    ),
    taken(
        "some with a zone and some without",
        "pandas-dev/pandas#24987",
        b"c\n2017-04-22T15:11:58Z\n2017-03-09T11:15:30\n",
        {"c": ["2017-04-22T15:11:58Z", "2017-03-09T11:15:30"]},
        "its values look like dates or times",
    ),
    taken(
        "nanoseconds stay text",
        "Go's time.RFC3339Nano",
        b"c\n2017-04-22T15:11:58.123456789Z\n",
        {"c": ["2017-04-22T15:11:58.123456789Z"]},
        "its values look like dates or times",
    ),
    taken("eight digits are a number", "ISO 8601, basic form", b"c\n20170422\n20170423\n", {"c": [20170422, 20170423]}),
    taken(
        "the year zero",
        "ISO 8601, 4.1.2.1",
        b"c\n0000-01-01\n0001-01-01\n",
        {"c": ["0000-01-01", "0001-01-01"]},
        "its values look like dates",
    ),
    taken(
        "the year zero and beyond",
        "ISO 8601",
        b"c\n0001-01-01\n9999-12-31\n",
        {"c": [date(1, 1, 1), date(9999, 12, 31)]},
    ),
    taken(
        "a leap second",
        "ISO 8601, 4.2.1",
        b"c,n\n2016-12-31T23:59:60Z,1\n2016-12-31T23:59:59Z,2\n",
        {"c": ["2016-12-31T23:59:60Z", "2016-12-31T23:59:59Z"], "n": [1, 2]},
    ),
]

OTHERS = [
    refused(
        "a zip file", "RFC 1951 in a .csv", b"PK\x03\x04\x14\0\0\0\x08\0,\n\n", "nul_character", "header, column 1"
    ),
    refused("a gzip file", "RFC 1952", b"\x1f\x8b\x08\0\0\0\0\0\0\x03KL\x02\0", "compressed", "file"),
    refused(
        "a web page that says there is no such file",
        "expired links",
        b"<!DOCTYPE html>\n<html>\n<head><title>404, not found</title></head>\n",
        "ragged_row",
        "row 2",
    ),
    refused(
        "a pointer of Git LFS",
        "datasets on GitHub",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345, or so\n",
        "ragged_row",
        "row 2",
    ),
    refused(
        "a Parquet file",
        "a wrong Content-Type",
        b"PAR1\x15\x04\x15\x10\x15\x14\x4c\x15\x02\0\0",
        "nul_character",
        "header, column 1",
    ),
    refused(
        "a SQLite file", "a wrong Content-Type", b"SQLite format 3\0\x10\0\x01\x01", "nul_character", "header, column 1"
    ),
    refused(
        "a matrix of libsvm, ragged",
        "LIBSVM's data sets",
        b"+1 1:0.7, 3:1\n-1 2:1\n",
        "ragged_row",
        "row 2",
        header=False,
    ),
]

CSV_FILES: list[Case] = [*QUOTES, *LINES, *SHAPES, *ENCODINGS, *NUMBERS, *WORDS, *DATES, *OTHERS]
