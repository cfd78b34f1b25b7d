"""The status page: what the admin API shows, for a person with a browser and nothing else. It reads; it changes nothing."""
