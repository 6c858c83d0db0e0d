-- Payments and invoices.
DO $$ BEGIN END $$;
