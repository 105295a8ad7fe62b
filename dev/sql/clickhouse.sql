-- Queries of a packed store with ClickHouse, in the folder that has the store ./packed (clickhouse local, or chdb from
-- Python). For a store on S3 use the table function s3 in the place of file. See dev/sql/duckdb.sql on gravity gc.

-- Spans by model and day, with their tokens.
select toDate(start) as day, model, count() as spans, sum(input_tokens) as tokens_in, sum(output_tokens) as tokens_out
from file('packed/spans/**/*.parquet', Parquet) where kind = 'span' and model is not null
group by day, model order by day, model;

-- Full-text search over distinct text.
select id, substring(text, 1, 80) from file('packed/nodes/**/*.parquet', Parquet)
where kind = 0 and positionCaseInsensitive(text, 'weather') > 0 limit 10;
