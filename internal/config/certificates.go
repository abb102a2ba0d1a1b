package config

// Certificates are the files of a configuration that hold certificates, which expire.
func (c *Agent) Certificates() []string {
	return certificates(c.Journal.Targets, c.Identity.Cert, c.Identity.CA, c.NBD.TLS.Cert, c.NBD.TLS.ClientCA)
}

// Certificates is as for an agent.
func (c *JournalHost) Certificates() []string {
	return certificates(c.Targets, c.Identity.Cert, c.Identity.CA)
}

func certificates(targets []Target, files ...string) []string {
	for _, t := range targets {
		files = append(files, t.CAFile)
	}
	return distinct(files)
}

// distinct drops empty names and those that were named before.
func distinct(all []string) (out []string) {
	seen := map[string]bool{"": true}
	for _, s := range all {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}
