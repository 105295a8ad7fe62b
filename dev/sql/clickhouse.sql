-- Queries of a packed store with ClickHouse, as views:
--
--   .tools/engines/bin/python dev/sql/query.py clickhouse ./packed "select * from tokens_by_day"
--
-- By themselves they look for the store in ./packed. For one on S3 put the table function s3 in the place of file. What
-- is there twice counts once: files that compaction replaced and `gravity gc` has not yet removed, and batches that two
-- workers stored.

-- A compacted file has the nodes of the packs that it replaced, all of them, under their old numbers, whose upper bits are
-- the pack's. Of the files that have a pack, one counts.
create view nodes as
select * from file('packed/nodes/**/*.parquet', Parquet)
where (bitShiftRight(id, 21), _path) in (
    select bitShiftRight(id, 21) as pack, min(_path) from file('packed/nodes/**/*.parquet', Parquet) group by pack
);

-- Spans, log records, and what stands between them. `batch`, in the last row of a batch, has the hash of what it is.
create view spans as
select *, _path from file('packed/spans/**/*.parquet', Parquet)
where (source, _path) in (
    select source, min(_path) from file('packed/spans/**/*.parquet', Parquet) where kind = 'batch' group by source, batch
);

-- Spans by model and day, with their tokens.
create view tokens_by_day as
select toDate(start, 'UTC') as day, model, count() as spans, sum(input_tokens) as tokens_in, sum(output_tokens) as tokens_out
from spans where kind = 'span' and model is not null
group by day, model order by day, model;

-- Full-text search over distinct text, a row for each text and span that has it in a value, however deep inside:
-- select text, count(), min(trace_id) from search(words = 'weather') group by text. All content is searched, and other
-- values of 64 bytes and more. Where other texts are cut out of a text it has U+FFFC.
create view search as
with recursive found as (
    select id, assumeNotNull(text) as text from nodes where text is not null and positionCaseInsensitiveUTF8(text, {words:String}) > 0
), holders as (
    select id, child from nodes array join refs as child
), up as (
    select id as found, id as node from found
    union all
    select up.found as found, holders.id as node from up join holders on holders.child = up.node
), named as (
    select distinct trace_id, span_id, node from spans array join refs as node where kind in ('span', 'log')
)
select distinct lower(hex(named.trace_id)) as trace_id, lower(hex(named.span_id)) as span_id, found.id as node, found.text as text
from named join up on named.node = up.node join found on found.id = up.found;

-- The texts of spans and log records, each with the attribute that it is the value of (`body`: a log's), if it is one. Its
-- name is in the shape: before the text's hole, or (some collectors write protobuf so) right behind it.
create view parts as
with cut as (
    select id, kind, splitByRegexp('\\x00[0-4x]', assumeNotNull(bytes)) as pieces from nodes where kind in (3, 4)
), shapes as (
    select id, arrayMap((before, behind) -> multiIf(
        kind = 4 and match(behind, '^\\x00\\)\\n[^\\x00]+\\x00\\)'), substring(extract(behind, '^\\x00\\)\\n([^\\x00]+)\\x00\\)'), 2),
        kind = 4, substring(extract(before, '\\n([^\\x00\\n]+)\\x12\\x00\\(\\n$'), 2),
        match(before, '"body": ?{"stringValue": ?"$'), 'body',
        extractAll(before, '"key": ?"(.*?)"')[-1]), arrayPopBack(pieces), arrayPopFront(pieces)) as keys
    from cut
)
select lower(hex(s.trace_id)) as trace_id, lower(hex(s.span_id)) as span_id, s.kind as kind, s.name as name,
    s.start as start, s.source as source, place, nullIf(key, '') as key, node
from spans s join shapes on s.shape = shapes.id
array join s.refs as node, shapes.keys as key, arrayEnumerate(s.refs) as place;

-- What stands between the quotes of a literal, by its habit (docs/packed.md): 0 to 4 JSON, 5 and 6 Python's repr in '
-- and ". Exact, but that no table of the characters that Unicode has not assigned is here: repr would
-- escape these.
create function literal as (text, habit) -> arrayStringConcat(arrayMap(
    c -> multiIf(
        match(c, '^[ !#-%(-;=?-\\[\\]-~]'), c,
        c = '\\', '\\\\',
        c = '\n', '\\n',
        c = '\r', '\\r',
        c = '\t', '\\t',
        c = '"', if(habit <= 4, '\\"', c),
        c = '\'', if(habit = 5, '\\\'', c),
        c = '\b' and habit in (0, 2, 3), '\\b',
        c = '\f' and habit in (0, 2, 3), '\\f',
        habit <= 4 and c < ' ' or habit in (3, 4) and c in ('<', '>', '&', char(0xe2, 0x80, 0xa8), char(0xe2, 0x80, 0xa9))
            or habit = 2 and c > '~',
            replaceRegexpAll(lower(hex(convertCharset(c, 'UTF-8', 'UTF-16BE'))), '(....)', '\\\\u\\1'),
        habit >= 5 and match(c, '[\\pC\\pZ\\x{fffe}\\x{ffff}]'), multiIf(
            length(convertCharset(c, 'UTF-8', 'UTF-16BE')) = 4, concat('\\U', lower(hex(convertCharset(c, 'UTF-8', 'UTF-32BE')))),
            startsWith(convertCharset(c, 'UTF-8', 'UTF-16BE'), '\0'), concat('\\x', lower(hex(substring(convertCharset(c, 'UTF-8', 'UTF-16BE'), 2)))),
            concat('\\u', lower(hex(convertCharset(c, 'UTF-8', 'UTF-16BE'))))),
        c),
    extractAll(text, '[ !#-%(-;=?-\\[\\]-~]+|(?s:.)|\\C')));

-- A node's text is made of its own text, cut at U+FFFC where others stand in it...
create view own_texts as
with cut as (
    select id, splitByString(char(0xef, 0xbf, 0xbc), assumeNotNull(text)) as texts from nodes where kind >= 16
)
select id, 2 * i as place, text from cut array join texts as text, arrayEnumerate(texts) as i
union all
select id, 0, ifNull(text, assumeNotNull(bytes)) from nodes where kind = 0;

-- ... and of the texts of others, as literals of a habit in such places, as they are (-1) in nodes of other kinds.
create view holes as
with cut as (
    select id, refs, toInt64(kind) - 16 as kind_habit, splitByString(char(0xef, 0xbf, 0xbc), assumeNotNull(text)) as texts
    from nodes where kind >= 16
)
select id, 2 * i + 1 as place, child, if(kind_habit >= 5, if(endsWith(before, '"'), 6, 5), kind_habit) as habit
from cut array join refs as child, arrayResize(texts, length(refs)) as before, arrayEnumerate(refs) as i
union all
select id, i, child, -1 from nodes array join refs as child, arrayEnumerate(refs) as i where kind in (1, 2);

-- The texts of all parts of a trace, put together: select * from texts(trace = '5c87427f3e06c9576fe5370ecd5621b7').
create view texts as
with recursive walk as (
    select distinct node as root, cast([], 'Array(UInt64)') as path, node, cast([], 'Array(Int64)') as habits
    from parts where trace_id = {trace:String}
    union all
    -- The innermost literal is written first.
    select walk.root as root, arrayPushBack(walk.path, toUInt64(holes.place)) as path, holes.child as node,
        if(holes.habit < 0, walk.habits, arrayPushFront(walk.habits, toInt64(holes.habit))) as habits
    from walk join holes on holes.id = walk.node
), written as (
    select walk.root as root, arrayPushBack(walk.path, toUInt64(own.place)) as path,
        arrayFold((text, habit) -> literal(text, habit), walk.habits, own.text) as text
    from walk join own_texts as own on own.id = walk.node
), whole as (
    select root, arrayStringConcat(arrayMap(t -> t.2, arraySort(t -> t.1, groupArray((path, text))))) as text
    from written group by root
)
select parts.span_id as span_id, parts.kind as kind, parts.name as name, parts.start as start, parts.source as source,
    parts.place as place, parts.key as key, whole.text as text
from parts join whole on whole.root = parts.node where parts.trace_id = {trace:String}
order by start, source, span_id, place;

-- The text of one message: select * from message(trace = '5c87…', span = '…', attribute = 'gen_ai.prompt.0.content').
create view message as
select text from texts(trace = {trace:String}) where span_id = {span:String} and key = {attribute:String};

-- A conversation: roles and texts of the messages of that span of the trace which has the most of them, the answer last:
-- select * from conversation(trace = '5c87…'). Messages are in numbered attributes (OpenInference, Traceloop) or in JSON
-- (gen_ai), if it has no half of a surrogate pair, which ClickHouse takes for broken.
create view conversation as
with all_texts as (
    select span_id, start, key, text from texts(trace = {trace:String}) where key is not null
), numbered as (
    select span_id, start, text, extractGroups(assumeNotNull(key),
        '^(gen_ai\\.prompt|gen_ai\\.completion|llm\\.input_messages|llm\\.output_messages)\\.(\\d+)\\.(?:message\\.)?(role|content)$') as attribute
    from all_texts
), messages as (
    select span_id, start, substring(attribute[1], 1, 3) as written,
        attribute[1] in ('gen_ai.completion', 'llm.output_messages') as answer, toUInt32(attribute[2]) as number,
        anyIf(toNullable(text), attribute[3] = 'role') as role, anyIf(toNullable(text), attribute[3] = 'content') as content
    from numbered where notEmpty(attribute) group by span_id, start, written, answer, number
    union all
    select span_id, start, 'json', key = 'gen_ai.output.messages', number, JSONExtract(message, 'role', 'Nullable(String)'),
        arrayStringConcat(arrayMap(part -> JSONExtractString(part, 'content'), JSONExtractArrayRaw(message, 'parts')))
    from all_texts array join JSONExtractArrayRaw(text) as message, arrayEnumerate(JSONExtractArrayRaw(text)) as number
    where key in ('gen_ai.input.messages', 'gen_ai.output.messages')
), longest as (
    select span_id, start, written from messages group by span_id, start, written
    order by count() desc, start desc, span_id, written limit 1
)
select role, content from messages where (span_id, start, written) in (select span_id, start, written from longest)
order by answer, number;
