"""The schema's history. Each step only adds (expand), and removes what nobody reads any more a release later."""
