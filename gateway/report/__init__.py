"""Reports: what a route did over a span, as one HTML file to mail around, from archive and open log. Changes nothing."""
