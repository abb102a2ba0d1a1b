// Package standby is the verb `pollux standby`, and how the status of a standby is printed.
package standby
