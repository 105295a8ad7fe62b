-- Queries of a packed store with DuckDB: duckdb -cmd "set variable store = './packed'" < dev/sql/duckdb.sql
-- A file that compaction replaced is still there until `gravity gc`: its rows would count twice. Run gc first, or
-- leave out the files that others name in their metadata `gravity.replaces`.
create or replace view spans as select * from read_parquet(getvariable('store') || '/spans/**/*.parquet');
create or replace view nodes as select * from read_parquet(getvariable('store') || '/nodes/**/*.parquet');

-- Spans by model and day, with their tokens.
select start::date as day, model, count(*) as spans, sum(input_tokens) as tokens_in, sum(output_tokens) as tokens_out
from spans where kind = 'span' and model is not null group by all order by all;

-- Full-text search over distinct text: which spans hold it.
select n.id, left(n.text, 80) as text, count(*) as spans, any_value(lower(hex(s.trace_id))) as trace_id
from nodes n join (select trace_id, unnest(refs) as id from spans) s using (id)
where n.kind = 0 and n.text ilike '%weather%' group by all order by spans desc limit 10;

-- A conversation: the texts of the largest span of a trace, in order. Texts that hold others have U+FFFC in their
-- place, which `gravity reconstruct` fills in.
with one as (
    select refs from spans where kind = 'span' order by len(refs) desc limit 1
)
select place, n.text from (select unnest(refs) as id, generate_subscripts(refs, 1) as place from one) r
join nodes n using (id) where n.text is not null order by place;
