package sqlcheck_test

import (
	"database/sql"
	"math"
	"slices"
	"testing"

	_ "modernc.org/sqlite"
)

// everything is the :wm of a job that was drained.
const everything = int64(math.MaxInt64)

// database is an SQL database in memory.
type database struct{ db *sql.DB }

func newDatabase(t testing.TB, schema string) *database {
	t.Helper()
	db, err := sql.Open("sqlite", ":memory:")
	ok(t, err)
	db.SetMaxOpenConns(1) // each connection to :memory: is a database of its own
	t.Cleanup(func() { ok(t, db.Close()) })
	_, err = db.Exec(schema)
	ok(t, err)
	return &database{db}
}

// load runs one insert for each row, in one transaction.
func (d *database) load(t testing.TB, insert func(exec func(query string, args ...any))) {
	t.Helper()
	tx, err := d.db.Begin()
	ok(t, err)
	prepared := map[string]*sql.Stmt{}
	insert(func(query string, args ...any) {
		stmt := prepared[query]
		if stmt == nil {
			stmt, err = tx.Prepare(query)
			ok(t, err)
			prepared[query] = stmt
		}
		_, err := stmt.Exec(args...)
		ok(t, err)
	})
	ok(t, tx.Commit())
}

// query returns what a SELECT does. Of its parameters it may use any or none.
func (d *database) query(t testing.TB, query string, params ...sql.NamedArg) relation {
	t.Helper()
	args := make([]any, len(params))
	for i, p := range params {
		args[i] = p
	}
	rows, err := d.db.Query(query, args...)
	ok(t, err)
	defer rows.Close()
	names, err := rows.Columns()
	ok(t, err)
	var r relation
	for rows.Next() {
		values := make([]any, len(names))
		into := make([]any, len(names))
		for i := range values {
			into[i] = &values[i]
		}
		ok(t, rows.Scan(into...))
		columns := map[string]any{}
		for i, name := range names {
			columns[name] = values[i]
		}
		r = append(r, row(columns))
	}
	ok(t, rows.Err())
	slices.Sort(r)
	return r
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
