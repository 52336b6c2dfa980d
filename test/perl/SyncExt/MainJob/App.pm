# The app of the main job: prices, customers, contracts and subscriptions, in plain SQL. Methods of SyncExt::MainJob.
package SyncExt::MainJob::App;

use strict;
use utf8;
use warnings;

# The customer whose e-mail address is none.
use constant POISON => 'C-0006';

# Currency => minor units, and the prices of a seat, a GB and a support plan.
my %PRICE = (
	BHD => [ 3, '4.850', '0.020', '48.500' ],
	EUR => [ 2, '12.50', '0.0575', '125.00' ],
	GBP => [ 2, '10.75', '0.0485', '107.50' ],
	JPY => [ 0, '1980', '9', '19800' ],
	USD => [ 2, '13.90', '0.0625', '139.00' ],
);

sub digits { my ($self, $currency) = @_; return $PRICE{$currency}[0] }

# As the app: a role that has sync_app and nothing else.
sub app { my ($self, $sql) = @_; return $self->psql($sql, user => $self->{app}) }

sub write_catalogue
{
	my ($self) = @_;
	my @code = qw(SEAT STORAGE SUPPORT);
	my @model = qw(per_unit per_unit flat);
	my @price;

	foreach my $currency (sort keys %PRICE)
	{
		push @price, map { "('$code[$_]', '$currency', '$model[$_]', $PRICE{$currency}[$_ + 1])" } 0 .. 2;
	}
	local $" = ', ';
	$self->app(<<"EOF");
BEGIN;
INSERT INTO canonical.product (code, name, unit)
VALUES ('SEAT', 'Seat of the platform', 'seat'), ('STORAGE', 'Storage', 'GB'), ('SUPPORT', 'Support plan', NULL);
INSERT INTO canonical.price (product_id, code, currency, model, unit_price, billing_interval)
SELECT p.id, v.product || '-' || v.currency, v.currency, v.model, v.price, 'month'
  FROM (VALUES @price) v (product, currency, model, price)
  JOIN canonical.product p ON p.code = v.product;
COMMIT;
EOF
	return;
}

# Customers, each with a contract, a subscription and one to three items, in
# transactions of ten. Half of the subscriptions begin with a free trial, so that
# nothing is billed yet. The poisonous one has an e-mail address that is none.
sub write_customers
{
	my ($self, $from, $to) = @_;
	my $poison = POISON;

	for (my $first = $from; $first <= $to; $first += 10)
	{
		my $last = $first + 9 < $to ? $first + 9 : $to;
		$self->app(<<"EOF");
BEGIN;
WITH plan AS (
    SELECT n, 'C-' || to_char(n, 'FM0000') AS number,
           ('{Nuñez,Müller & Söhne,Acme,O''Neill,Åkermark,さくら商店,Dupont,Schmidt,Al-Khalifa,Zoë}'::text[])[n % 10 + 1] AS family,
           ('{Logistics,Robotics,Foods,Energy,Media,Labs,Textiles}'::text[])[n % 7 + 1] AS trade,
           ('{EUR,USD,USD,EUR,JPY,EUR,USD,GBP,BHD,EUR}'::text[])[n % 10 + 1] AS currency,
           ('{ES,US,US,IE,JP,SE,US,GB,BH,AT}'::text[])[n % 10 + 1] AS country
      FROM generate_series($first, $last) n
), customer AS (
    INSERT INTO canonical.customer (number, name, currency, billing_email, billing_address, payment_terms_days, legal_entity_id)
    SELECT number, family || ' ' || trade || ' ' || n, currency,
           CASE number WHEN '$poison' THEN 'no address' ELSE lower(number) || '\@example.com' END,
           jsonb_build_object('line1', n || ' High Street', 'city', 'Springfield',
                              'postal_code', to_char(n, 'FM00000'), 'country', country),
           30, (SELECT id FROM canonical.legal_entity)
      FROM plan
    RETURNING id, number, currency
), contract AS (
    INSERT INTO canonical.contract (customer_id, number, status, signed_at, start_date, currency, auto_renew, renewal_term_months)
    SELECT id, 'K' || substr(number, 2), 'signed', now(), current_date, currency, true, 12 FROM customer
    RETURNING id, customer_id, number, currency
), subscription AS (
    INSERT INTO canonical.subscription (contract_id, customer_id, number, start_date, trial_end, currency, collection_method)
    SELECT id, customer_id, 'S' || substr(number, 2), current_date,
           CASE WHEN right(number, 1) IN ('0', '2', '3', '6', '9') THEN date_trunc('day', now()) + interval '14 days' END, currency,
           CASE WHEN number LIKE '%8' THEN 'send_invoice' ELSE 'charge_automatically' END
      FROM contract
    RETURNING id, number, currency
)
INSERT INTO canonical.subscription_item (subscription_id, price_id, quantity)
SELECT s.id, p.id, CASE f.code WHEN 'SEAT' THEN 1 + plan.n % 24 WHEN 'STORAGE' THEN 50 + plan.n * 7 % 900 ELSE 1 END
  FROM subscription s
  JOIN plan ON plan.number = 'C' || substr(s.number, 2)
  JOIN canonical.price p ON p.currency = s.currency
  JOIN canonical.product f ON f.id = p.product_id
 WHERE f.code = 'SEAT' OR f.code = 'STORAGE' AND plan.n % 3 > 0 OR f.code = 'SUPPORT' AND plan.n % 4 = 0;
COMMIT;
EOF
	}
	return;
}

1;
