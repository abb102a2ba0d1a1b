package golden

import (
	"reflect"
	"testing"
)

// Filled fails for each field of the structs within values that is zero in all of them: a
// vector of such values would not show that the field's name or meaning has changed. Fields
// that JSON leaves out are passed over, and so are the types of other modules.
func Filled(t testing.TB, values ...any) {
	t.Helper()
	seen := map[string]bool{} // type and field: it has a value somewhere
	for _, v := range values {
		fill(reflect.ValueOf(v), seen)
	}
	for field, filled := range seen {
		if !filled {
			t.Errorf("no golden vector has %s", field)
		}
	}
}

func fill(v reflect.Value, seen map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			fill(v.Elem(), seen)
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		for i := range v.Len() {
			fill(v.Index(i), seen)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			fill(v.MapIndex(key), seen)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() || f.Tag.Get("json") == "-" {
				continue
			}
			name := v.Type().String() + "." + f.Name
			seen[name] = seen[name] || !v.Field(i).IsZero()
			fill(v.Field(i), seen)
		}
	}
}
