"""German translations and their references, with hyphenated words, abbreviations, quotation marks and symbols."""

REFERENCES = [
    "Der Science-Fiction-Film läuft heute im Kino am Bahnhof.",
    "Frau Müller-Lüdenscheidt las z.B. die Abend-Zeitung von 1998/99.",
    'Er sagte: "Die E-Mail kam um 5,30 Uhr an", und ging nach Hause.',
    "Ein Hund -- groß & braun -- bellt den Brief-Träger an.",
    "Die U-Bahn-Station ist wegen der Bau-Arbeiten seit Montag geschlossen.",
    "Zwei Kinder spielen auf dem Rasen vor dem alten Haus.",
]
HYPOTHESES = [
    "Der Science-Fiction-Streifen läuft heute im Kino am Bahnhof.",
    "Frau Müller-Lüdenscheidt las z.B. die Morgen-Zeitung von 1998/99.",
    'Er sagte: "Die E-Mail kam um 5,30 Uhr", und ging nach Hause.',
    "Ein Hund -- groß & braun -- bellt den Post-Träger an.",
    "Die U-Bahn-Haltestelle ist wegen Bau-Arbeiten seit Montag geschlossen.",
    "Zwei Kinder spielen auf dem Rasen vor einem alten Haus.",
]
WORSE = [" ".join(reversed(line.split())) for line in HYPOTHESES]
