//! Whole tables out of a database and into another, whichever engine either is.
//!
//! The schema has two types, BIGINT and TEXT, so a row is a JSON array of numbers, texts and nulls.
//! This is the only SQL that is put together: of the names of tables, which are those of the
//! migrations, and of columns, which are plain words.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream::BoxStream};
use serde_json::Value as Json;
use sqlx::{AssertSqlSafe, Column, Row as _, postgres::PgRow, sqlite::SqliteRow};

use super::{
    Store, StoreError, Tx,
    db::{Db, Inner, Value, postgres_row, sqlite_row},
    kinds, schema,
};

/// Tables that a fresh database already has rows in: they are written over.
const SEEDED: [&str; 2] = ["generation", "credential_generation"];

/// Rows of a table, with the names of their columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Json>>,
}

impl Store {
    /// The schema of this server's databases.
    pub fn schema() -> i64 {
        schema::newest()
    }

    /// The tables of a schema, each behind those that it refers to.
    pub fn tables(schema: i64) -> Vec<&'static str> {
        schema::tables(schema).collect()
    }

    /// Opens a database for what another one held, in the schema that it had there:
    /// [`Store::finish`] brings it up to date.
    pub(crate) async fn open_to_load(
        sqlite: &std::path::Path,
        postgres: Option<&str>,
        schema: i64,
    ) -> Result<Self, StoreError> {
        let db = match postgres {
            Some(url) => Db::open_postgres(url).await?,
            None => Db::open_sqlite(sqlite).await?,
        };
        let store = Self { db };
        schema::migrate(&store, schema).await?;
        Ok(store)
    }

    /// Brings a loaded database up to date and closes it.
    pub(crate) async fn finish(self) -> Result<(), StoreError> {
        schema::migrate(&self, schema::newest()).await?;
        kinds::settle_all(&self).await?;
        self.close().await;
        Ok(())
    }
}

impl Tx {
    /// A row after the other: `columns` is told only with the first.
    pub(crate) fn dump(&mut self, table: &'static str) -> BoxStream<'_, Result<Rows, StoreError>> {
        let sql = AssertSqlSafe(format!("SELECT * FROM {table}"));
        let mut is_first = true;
        let mut first = move || std::mem::take(&mut is_first);
        match &mut self.0 {
            Inner::Sqlite(tx) => sqlx::query(sql)
                .fetch(&mut **tx)
                .map(move |row| of_sqlite(&row?, first()))
                .boxed(),
            Inner::Postgres(tx) => sqlx::query(sql)
                .fetch(&mut **tx)
                .map(move |row| of_postgres(&row?, first()))
                .boxed(),
        }
    }

    /// The first table that holds something; what every new database holds does not count.
    pub(crate) async fn first_filled(
        &mut self,
        schema: i64,
    ) -> Result<Option<&'static str>, StoreError> {
        for table in schema::tables(schema).filter(|table| !SEEDED.contains(table)) {
            if self.dump(table).next().await.transpose()?.is_some() {
                return Ok(Some(table));
            }
        }
        Ok(None)
    }

    /// Takes away what the migrations have put into a new database.
    pub(crate) async fn empty_seeded(&mut self) -> Result<(), StoreError> {
        for sql in [
            "DELETE FROM generation",
            "DELETE FROM credential_generation",
        ] {
            self.run(sql, []).await?;
        }
        Ok(())
    }

    /// Writes rows into a table.
    pub(crate) async fn load_rows(
        &mut self,
        table: &'static str,
        rows: &Rows,
    ) -> Result<(), StoreError> {
        let mut texts = BTreeMap::new();
        for row in &rows.rows {
            let nulls: Vec<bool> = row.iter().map(Json::is_null).collect();
            let sql = texts
                .entry(nulls)
                .or_insert_with_key(|nulls| insert(table, &rows.columns, nulls));
            let values = row.iter().filter(|cell| !cell.is_null()).map(value);
            self.run_owned(sql.clone(), values.collect::<Result<_, _>>()?)
                .await?;
        }
        Ok(())
    }
}

/// A NULL is written out: bound, it would need the type of its column.
fn insert(table: &str, columns: &[String], nulls: &[bool]) -> String {
    let mut number = 0;
    let values = nulls.iter().map(|is_null| match is_null {
        true => "NULL".to_owned(),
        false => {
            number += 1;
            format!("${number}")
        }
    });
    let values: Vec<String> = values.collect();
    let (columns, values) = (columns.join(", "), values.join(", "));
    format!("INSERT INTO {table} ({columns}) VALUES ({values})")
}

fn value(cell: &Json) -> Result<Value, StoreError> {
    match cell {
        Json::String(text) => Ok(Value::Text(Some(text.clone()))),
        cell => {
            let number = cell.as_i64().map(|number| Value::Int(Some(number)));
            number.ok_or_else(|| StoreError::stored("a number or a text", cell))
        }
    }
}

fn json(value: Value) -> Json {
    match value {
        Value::Int(Some(number)) => number.into(),
        Value::Text(Some(text)) => text.into(),
        Value::Int(None) | Value::Text(None) => Json::Null,
    }
}

macro_rules! of_engine {
    ($name:ident, $row:ty, $read:ident) => {
        fn $name(row: &$row, with_columns: bool) -> Result<Rows, StoreError> {
            let names = row.columns().iter().filter(|_| with_columns);
            Ok(Rows {
                columns: names.map(|column| column.name().to_owned()).collect(),
                rows: vec![$read(row)?.into_cells().map(json).collect()],
            })
        }
    };
}

of_engine!(of_sqlite, SqliteRow, sqlite_row);
of_engine!(of_postgres, PgRow, postgres_row);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_is_written_out_and_the_rest_is_bound() {
        let columns = ["id", "name", "at"].map(str::to_owned);
        let sql = insert("release", &columns, &[false, true, false]);
        assert_eq!(
            sql,
            "INSERT INTO release (id, name, at) VALUES ($1, NULL, $2)"
        );
    }
}
