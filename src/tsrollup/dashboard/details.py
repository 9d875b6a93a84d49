"""What the page of a rollup says at length: its errors, partitions and definition."""

import json

from tsrollup.dashboard.markup import Html, join, moment, number, pairs, size, table, tag, width
from tsrollup.dashboard.queries import Row

OPTIONS = (
    "source_table", "time_column", "time_unit", "bucket_width", "timezone", "origin", "dimensions",
    "expressions", "filter", "metrics", "chunk_interval", "settle_delay", "processing_window",
    "current_window", "target_batch_duration", "change_tracking", "look_back_window", "retention",
    "sealed_before", "created_at",
)  # fmt: skip


def errors(rows: list[Row]) -> Html:
    if not rows:
        return tag("p", "None in the last 30 days.", class_="quiet")
    return join(
        [
            tag(
                "details",
                tag("summary", tag("span", moment(row["occurred_at"]), class_="when"), " ",
                    tag("code", row["error_code"]), " ", row["error_message"]),
                tag("p", tag("strong", "Next step: "), row["hint"]) if row["hint"] else "",
                pairs([("detail", row["detail"]), ("attempt", row["attempt"])]),
                tag("pre", row["attempted_query"]) if row["attempted_query"] else "",
                tag("pre", row["context"], class_="quiet") if row["context"] else "",
            )
            for row in rows
        ]
    )  # fmt: skip


def partitions(rows: list[Row]) -> Html:
    if not rows:
        return tag("p", "There are none.", class_="quiet")
    total = rows[0]
    shown = table(
        ("partition", "from", "to", "rows, about", "table", "indexes", "sealed"),
        [
            (
                row["partition_name"], moment(row["from_time"]), moment(row["to_time"]),
                number(row["estimated_rows"]), size(row["table_bytes"]), size(row["index_bytes"]),
                "yes" if row["is_sealed"] else "",
            )
            for row in rows
        ],
        ("rows, about", "table", "indexes"),
    )  # fmt: skip
    more = total["partitions"] - len(rows)
    said = f"{number(total['partitions'])} partitions, {size(total['all_bytes'])} in all"
    return join([tag("p", said, f"; the newest {len(rows)}:" if more else ""), shown])


def definition(rows: list[Row]) -> Html:
    (row,) = rows
    if not row:
        return tag("p", "Nothing is configured under this name any more.", class_="quiet")
    options = [
        (name.replace("_", " "), _option(row.get(name)))
        for name in OPTIONS
        if row.get(name) not in (None, [])
    ]
    return join(
        [
            pairs(options),
            tag("h3", "The GROUP BY that it stands for"),
            tag("pre", row["refresh_sql"]),
            tag("details", tag("summary", "The live view ", tag("code", row["view"])),
                tag("pre", row["view_sql"])),
        ]
    )  # fmt: skip


def _option(value: object) -> str:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return width(moment(value))
