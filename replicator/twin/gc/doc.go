// Package gc keeps a twin readable and within its budget. Catalog makes the next
// catalog from footers alone; Collect deletes what no point that is kept needs.
//
// It guarantees that a point that the policy keeps stays restorable, whatever process
// dies when and however many run at once: objects are made before the catalog that
// refers to them, and deleted a grace time after one that does not. `pollux gc` and control/catalogs call it.
package gc
