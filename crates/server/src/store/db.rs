//! One way to run static SQL on two engines.
//!
//! The statements are valid on both ($1 binds; BIGINT and TEXT only), so the two differ in how a
//! transaction begins and in how a value is bound and read, which is all that is here. A write
//! transaction is alone on either engine: SQLite has one writer connection, PostgreSQL takes an
//! advisory lock. Reading and then writing inside one is therefore safe without retries, and ids
//! and event numbers are committed in their order.

use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::{
    Column, Row as _, TypeInfo, ValueRef,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow},
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
        SqliteSynchronous,
    },
};

use super::StoreError;

/// Reader connections of SQLite, and all connections of PostgreSQL: more wait for two cores.
const CONNECTIONS_MAX: u32 = 8;
/// How long a request waits for its turn to write before it is told to come back.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// The advisory lock that makes write transactions one after another on PostgreSQL.
const WRITE_LOCK: &str = "SELECT pg_advisory_xact_lock(466468961)";

/// A database.
#[derive(Clone, Debug)]
pub(super) enum Db {
    Sqlite {
        writer: SqlitePool,
        readers: SqlitePool,
    },
    Postgres(PgPool),
}

/// A transaction; dropped without [`Tx::commit`] it changes nothing.
pub struct Tx(Inner);

enum Inner {
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
}

/// A value of one of the two types that the schema uses.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
}

/// A row, read column by column from the left.
pub(super) struct Row {
    cells: std::vec::IntoIter<Value>,
}

impl Db {
    pub(super) async fn open_sqlite(path: &std::path::Path) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // An acknowledged write survives a power cut of the server.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(WAIT_MAX);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(WAIT_MAX)
            .connect_with(options.clone())
            .await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(WAIT_MAX)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await?;
        Ok(Self::Sqlite { writer, readers })
    }

    pub(super) async fn open_postgres(url: &str) -> Result<Self, sqlx::Error> {
        let options: PgConnectOptions = url.parse()?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(WAIT_MAX)
            .connect_with(options)
            .await?;
        Ok(Self::Postgres(pool))
    }

    pub(super) async fn read(&self) -> Result<Tx, sqlx::Error> {
        Ok(Tx(match self {
            Self::Sqlite { readers, .. } => Inner::Sqlite(readers.begin().await?),
            Self::Postgres(pool) => Inner::Postgres(
                pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                    .await?,
            ),
        }))
    }

    pub(super) async fn write(&self) -> Result<Tx, sqlx::Error> {
        Ok(Tx(match self {
            Self::Sqlite { writer, .. } => {
                Inner::Sqlite(writer.begin_with("BEGIN IMMEDIATE").await?)
            }
            Self::Postgres(pool) => {
                let mut tx = pool.begin().await?;
                sqlx::query(WRITE_LOCK).execute(&mut *tx).await?;
                Inner::Postgres(tx)
            }
        }))
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Sqlite { .. } => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }
}

macro_rules! bind_all {
    ($sql:expr, $values:expr) => {{
        let mut query = sqlx::query($sql);
        for value in $values {
            query = match value {
                Value::Int(int) => query.bind(int),
                Value::Text(text) => query.bind(text),
            };
        }
        query
    }};
}

impl Tx {
    /// Runs a statement; gives the number of rows it changed.
    pub(super) async fn run<const N: usize>(
        &mut self,
        sql: &'static str,
        values: [Value; N],
    ) -> Result<u64, StoreError> {
        Ok(match &mut self.0 {
            Inner::Sqlite(tx) => {
                let query = bind_all!(sql, values);
                query.execute(&mut **tx).await?.rows_affected()
            }
            Inner::Postgres(tx) => {
                let query = bind_all!(sql, values);
                query.execute(&mut **tx).await?.rows_affected()
            }
        })
    }

    /// Runs a query and reads each row with `read`.
    pub(super) async fn all<T, const N: usize>(
        &mut self,
        sql: &'static str,
        values: [Value; N],
        mut read: impl FnMut(&mut Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let rows: Vec<Row> = match &mut self.0 {
            Inner::Sqlite(tx) => {
                let rows = bind_all!(sql, values).fetch_all(&mut **tx).await?;
                rows.iter().map(sqlite_row).collect::<Result<_, _>>()?
            }
            Inner::Postgres(tx) => {
                let rows = bind_all!(sql, values).fetch_all(&mut **tx).await?;
                rows.iter().map(postgres_row).collect::<Result<_, _>>()?
            }
        };
        rows.into_iter().map(|mut row| read(&mut row)).collect()
    }

    /// Runs a query and hands over row after row, so that none but one is in memory.
    pub(super) async fn each<const N: usize>(
        &mut self,
        sql: &'static str,
        values: [Value; N],
        mut take: impl FnMut(&mut Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match &mut self.0 {
            Inner::Sqlite(tx) => {
                let mut rows = bind_all!(sql, values).fetch(&mut **tx);
                while let Some(row) = rows.try_next().await? {
                    take(&mut sqlite_row(&row)?)?;
                }
            }
            Inner::Postgres(tx) => {
                let mut rows = bind_all!(sql, values).fetch(&mut **tx);
                while let Some(row) = rows.try_next().await? {
                    take(&mut postgres_row(&row)?)?;
                }
            }
        }
        Ok(())
    }

    /// Like [`Tx::all`], for a query of at most one row.
    pub(super) async fn one<T, const N: usize>(
        &mut self,
        sql: &'static str,
        values: [Value; N],
        read: impl FnMut(&mut Row) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.all(sql, values, read).await?.into_iter().next())
    }

    /// Makes the changes last.
    pub async fn commit(self) -> Result<(), StoreError> {
        match self.0 {
            Inner::Sqlite(tx) => tx.commit().await?,
            Inner::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }
}

fn sqlite_row(row: &SqliteRow) -> Result<Row, StoreError> {
    let cells = (0..row.len()).map(|index| {
        let raw = row.try_get_raw(index)?;
        // SQLite types values, not columns: a NULL has no type, and either option reads it.
        Ok(match raw.type_info().name() {
            "TEXT" => Value::Text(row.try_get(index)?),
            "NULL" => Value::Text(None),
            _ => Value::Int(row.try_get(index)?),
        })
    });
    let cells: Vec<Value> = cells.collect::<Result<_, sqlx::Error>>()?;
    Ok(Row {
        cells: cells.into_iter(),
    })
}

fn postgres_row(row: &PgRow) -> Result<Row, StoreError> {
    let cells = row.columns().iter().map(|column| {
        let index = column.ordinal();
        Ok(match column.type_info().name() {
            "INT8" => Value::Int(row.try_get(index)?),
            "INT4" => Value::Int(row.try_get::<Option<i32>, _>(index)?.map(i64::from)),
            _ => Value::Text(row.try_get(index)?),
        })
    });
    let cells: Vec<Value> = cells.collect::<Result<_, sqlx::Error>>()?;
    Ok(Row {
        cells: cells.into_iter(),
    })
}

impl Row {
    pub(super) fn int_maybe(&mut self) -> Result<Option<i64>, StoreError> {
        match self.cells.next() {
            Some(Value::Int(int)) => Ok(int),
            Some(Value::Text(None)) => Ok(None),
            other => Err(StoreError::stored("a number", &other)),
        }
    }

    pub(super) fn int(&mut self) -> Result<i64, StoreError> {
        self.int_maybe()?
            .ok_or_else(|| StoreError::stored("a number", &"NULL"))
    }

    pub(super) fn flag(&mut self) -> Result<bool, StoreError> {
        Ok(self.int()? != 0)
    }

    /// A number of a smaller type.
    pub(super) fn number<T: TryFrom<i64>>(&mut self) -> Result<T, StoreError> {
        let int = self.int()?;
        T::try_from(int).map_err(|_| StoreError::stored("a smaller number", &int))
    }

    pub(super) fn number_maybe<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, StoreError> {
        let Some(int) = self.int_maybe()? else {
            return Ok(None);
        };
        let number = T::try_from(int);
        number
            .map(Some)
            .map_err(|_| StoreError::stored("a smaller number", &int))
    }

    pub(super) fn text_maybe(&mut self) -> Result<Option<String>, StoreError> {
        match self.cells.next() {
            Some(Value::Text(text)) => Ok(text),
            Some(Value::Int(None)) => Ok(None),
            other => Err(StoreError::stored("a text", &other)),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        self.text_maybe()?
            .ok_or_else(|| StoreError::stored("a text", &"NULL"))
    }

    /// A text that is parsed.
    pub(super) fn parsed<T: std::str::FromStr>(&mut self) -> Result<T, StoreError> {
        let text = self.text()?;
        text.parse()
            .map_err(|_| StoreError::stored("a known word", &text))
    }

    pub(super) fn parsed_maybe<T: std::str::FromStr>(&mut self) -> Result<Option<T>, StoreError> {
        let Some(text) = self.text_maybe()? else {
            return Ok(None);
        };
        let parsed = text.parse();
        parsed
            .map(Some)
            .map_err(|_| StoreError::stored("a known word", &text))
    }
}

macro_rules! value_from {
    ($($type:ty => $variant:ident $convert:expr;)*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self { let f: fn($type) -> _ = $convert; Self::$variant(Some(f(value))) }
        }
        impl From<Option<$type>> for Value {
            fn from(value: Option<$type>) -> Self { let f: fn($type) -> _ = $convert; Self::$variant(value.map(f)) }
        }
    )*};
}

value_from! {
    i64 => Int |int| int;
    u32 => Int i64::from;
    u16 => Int i64::from;
    u8 => Int i64::from;
    bool => Int i64::from;
    // Counts and sizes here are bounded far below 2^63.
    u64 => Int |int| i64::try_from(int).unwrap_or(i64::MAX);
    &str => Text str::to_owned;
    &String => Text String::clone;
    String => Text |text| text;
    fota_proto::Sha256 => Text |digest| digest.to_string();
    fota_proto::AttemptState => Text |state| state.to_string();
}

/// Values in the order of `$1`, `$2` …
macro_rules! values {
    ($($value:expr),* $(,)?) => { [$($crate::store::db::Value::from($value)),*] };
}
pub(super) use values;
