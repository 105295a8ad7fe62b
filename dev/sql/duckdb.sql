-- Queries of a packed store with DuckDB (the tests run 2.0; 1.3 and 1.4 run them too), as views and macros:
--
--   .tools/engines/bin/python dev/sql/query.py duckdb ./packed "from tokens_by_day"
--
-- By themselves they look for the store in ./packed, or where `set variable store = '…'` says. What is there twice
-- counts once: files that compaction replaced and `gravity gc` has not yet removed, and batches that two workers stored.
set variable store = coalesce(getvariable('store'), './packed');

-- Files that a compacted one stands for, by their keys. None but in a store that was compacted and not yet cleared.
create or replace temp view replaced as
select unnest(from_json(decode(value), '["varchar"]')) as key
from parquet_kv_metadata([getvariable('store') || '/nodes/**/*.parquet', getvariable('store') || '/spans/**/*.parquet'])
where decode(key) = 'gravity.replaces';

create or replace temp macro key_of(filename) as regexp_extract(filename, '(?:nodes|spans)/dt=[^/]+/[^/]+$');

create or replace temp view nodes as
select * from read_parquet(getvariable('store') || '/nodes/**/*.parquet', filename = true)
where key_of(filename) not in (from replaced);

-- Spans, log records, and what stands between them. `batch`, in the last row of a batch, has the hash of what it is.
create or replace temp view spans as
with files as (
    select * from read_parquet(getvariable('store') || '/spans/**/*.parquet', filename = true)
    where key_of(filename) not in (from replaced)
), chosen as (
    select source, min(filename) as filename from files where kind = 'batch' group by source, batch
)
select * from files where (source, filename) in (from chosen);

-- Spans by model and day, with their tokens.
create or replace temp view tokens_by_day as
select start::date as day, model, count(*) as spans, sum(input_tokens) as tokens_in, sum(output_tokens) as tokens_out
from spans where kind = 'span' and model is not null
group by all order by all;

-- Full-text search over distinct text, a row for each text and span that has it in a value, however deep inside:
-- select text, count(*), min(trace_id) from search('weather') group by all order by all desc. All content is searched, and
-- other values of 64 bytes and more. Where other texts are cut out of a text it has U+FFFC.
create or replace temp macro search(words) as table
with recursive found as (
    select id, text from nodes where contains(lower(text), lower(words))
), holders as materialized (
    select id, unnest(refs) as child from nodes
), up as (
    select id as found, id as node from found
    union
    select up.found, holders.id from up join holders on holders.child = up.node
), named as (
    select distinct trace_id, span_id, unnest(refs) as node from spans where kind in ('span', 'log')
)
select distinct lower(hex(trace_id)) as trace_id, lower(hex(span_id)) as span_id, id as node, text
from named join up using (node) join found on found.id = up.found;

-- The texts of spans and log records, each with the attribute that it is the value of (`body`: a log's), if it is one. Its
-- name is in the shape: before the text's hole, or (some collectors write protobuf so) right behind it.
create or replace temp view parts as
with cut as (
    -- A shape may be no text: as DuckDB shows it, NUL is \x00, a quote \x22.
    select id, kind, string_split_regex(bytes::varchar, '\\x00[0-4x]') as pieces from nodes where kind in (3, 4)
), shapes as (
    select id, list_transform(range(1, len(pieces)), lambda i: case
        when kind = 4 then coalesce(
            nullif(regexp_extract(pieces[i + 1], '^\\x00\)\\x0A(?:\\x..|.)(.*?)\\x00\)', 1), ''),
            nullif(regexp_extract(pieces[i], '\\x0A(?:\\x..|.)([^\\]*)\\x12\\x00\(\\x0A$', 1), ''))
        when regexp_matches(pieces[i], '\\x22body\\x22: ?\{\\x22stringValue\\x22: ?\\x22$') then 'body'
        else regexp_extract_all(pieces[i], '\\x22key\\x22: ?\\x22(.*?)\\x22', 1)[-1]
        end) as keys
    from cut
)
select lower(hex(trace_id)) as trace_id, lower(hex(span_id)) as span_id, s.kind, name, start, source,
    generate_subscripts(refs, 1) as place, unnest(keys) as key, unnest(refs) as node
from spans s join shapes on s.shape = shapes.id;

-- What stands between the quotes of a literal, by its habit (docs/packed.md): 0 to 4 JSON, 5 and 6 Python's repr in '
-- and ". Exact, but that no table of the characters that Unicode has not assigned is here: repr would
-- escape these.
create or replace temp macro literal(text, habit) as array_to_string(list_transform(
    regexp_extract_all(text, '[ !#-%(-;=?-\[\]-~]+|(?s:.)'),
    lambda c: case
        when regexp_matches(c, '^[ !#-%(-;=?-\[\]-~]') then c
        when c = '\' then '\\'
        when c = chr(10) then '\n'
        when c = chr(13) then '\r'
        when c = chr(9) then '\t'
        when c = '"' then if(habit <= 4, '\"', c)
        when c = '''' then if(habit = 5, '\''', c)
        when c = chr(8) and habit in (0, 2, 3) then '\b'
        when c = chr(12) and habit in (0, 2, 3) then '\f'
        when habit <= 4 and c < ' ' or habit in (3, 4) and c in ('<', '>', '&', chr(8232), chr(8233))
            or habit = 2 and c > '~' and unicode(c) < 65536 then printf('\u%04x', unicode(c))
        when habit = 2 and c > '~' then
            printf('\u%04x\u%04x', 55232 + unicode(c) // 1024, 56320 + unicode(c) % 1024)
        when habit >= 5 and regexp_matches(c, '[\pC\pZ\x{fffe}\x{ffff}]') then
            case when unicode(c) < 256 then printf('\x%02x', unicode(c))
                when unicode(c) < 65536 then printf('\u%04x', unicode(c))
                else printf('\U%08x', unicode(c)) end
        else c end), '');

-- A node's text is made of its own text, cut at U+FFFC where others stand in it...
create or replace temp view own_texts as
with cut as (
    select id, string_split(text, chr(65532)) as texts from nodes where kind >= 16
)
select id, 2 * generate_subscripts(texts, 1) as place, unnest(texts) as text from cut
union all
-- Bytes that are no UTF-8 show as \x...
select id, 0, coalesce(text, bytes::varchar) from nodes where kind = 0;

-- ... and of the texts of others, as literals of a habit in such places, as they are in nodes of other kinds.
create or replace temp view holes as
with cut as (
    select id, unnest(refs) as child, unnest(string_split(text, chr(65532))[:len(refs)]) as before, kind - 16 as habit,
        generate_subscripts(refs, 1) as i
    from nodes where kind >= 16
)
select id, 2 * i + 1 as place, child, if(habit >= 5, if(right(before, 1) = '"', 6, 5), habit) as habit from cut
union all
select id, generate_subscripts(refs, 1), unnest(refs), null from nodes where kind in (1, 2);

-- The texts of all parts of a trace, put together: from texts('5c87427f3e06c9576fe5370ecd5621b7').
create or replace temp macro texts(trace) as table
-- `materialized`: DuckDB cannot read files again in each step of a recursion.
with recursive all_holes as materialized (
    from holes
), walk as (
    select distinct node as root, []::bigint[] as path, node, []::bigint[] as habits from parts where trace_id = trace
    union all
    -- The innermost literal is written first.
    select root, list_append(path, place), child, if(habit is null, habits, list_prepend(habit, habits))
    from walk join all_holes on id = node
), written as (
    select root, list_append(path, place) as path,
        list_reduce(list_prepend(text, habits::varchar[]), lambda written, habit: literal(written, habit::int)) as text
    from walk join own_texts on id = node
), whole as (
    select root, string_agg(text, '' order by path) as text from written group by root
)
select span_id, kind, name, start, source, place, key, text
from parts join whole on root = node where trace_id = trace
order by start, source, span_id, place;

-- The text of one message: from message('5c87…', 'span id', 'llm.input_messages.0.message.content').
create or replace temp macro message(trace, span, attribute) as table
select text from texts(trace) where span_id = span and key = attribute;

-- A conversation: roles and texts of the messages of that span of the trace which has the most of them, the answer last:
-- from conversation('5c87…'). Messages are in numbered attributes (OpenInference, Traceloop) or in JSON (gen_ai), if
-- it has no half of a surrogate pair, which DuckDB takes for broken.
create or replace temp macro conversation(trace) as table
with all_texts as materialized (
    from texts(trace)
), numbered as (
    select span_id, start, text, regexp_extract(key,
        '^(gen_ai\.prompt|gen_ai\.completion|llm\.input_messages|llm\.output_messages)\.(\d+)\.(?:message\.)?(role|content)$',
        ['side', 'number', 'field']) as attribute
    from all_texts
), in_json as (
    select span_id, start, key, unnest(list) as message, generate_subscripts(list, 1) as number
    from (
        select span_id, start, key, from_json(text, '["json"]') as list from all_texts
        where key in ('gen_ai.input.messages', 'gen_ai.output.messages') and json_valid(text)
    )
), messages as (
    select span_id, start, left(attribute.side, 3) as written, attribute.side in ('gen_ai.completion', 'llm.output_messages') as answer,
        attribute.number::int as number, any_value(text) filter (attribute.field = 'role') as role,
        any_value(text) filter (attribute.field = 'content') as content
    from numbered where attribute.side <> '' group by all
    union all
    select span_id, start, 'json', key = 'gen_ai.output.messages', number, message ->> 'role',
        array_to_string(message ->> '$.parts[*].content', '')
    from in_json
), longest as (
    select span_id, start, written from messages group by all order by count(*) desc, start desc, span_id, written limit 1
)
select role, content from messages semi join longest using (span_id, start, written) order by answer, number;
