// Package config reads the YAML settings of a host: paths, addresses, budgets.
// Volumes, groups and policies are control state and never stand here.
//
// It decodes strictly: an unknown or repeated key, or a value of the wrong form,
// is an error that names file and line. Every setting has a safe default. cmd and the
// daemons in control are its callers; docs/configuration.md lists the settings.
package config
