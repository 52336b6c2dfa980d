# The main job: an app writes canonical tables in SQL, a billing system and a
# real ERP receive the changes, and what those systems change comes back. One
# text for `make demo`, which shows it to a person, and for t/090_main_job.pl,
# which asserts the same with fewer customers.
#
#   SyncExt::MainJob->new(
#       dsn       => 'host=… port=… dbname=hub',    # of a superuser, empty database
#       secrets   => '…',                           # sync_ext.secrets_dir
#       tryton    => $started_tryton,
#       sandbox   => $started_sandbox,
#       customers => 200,                           # 12 or more
#       say       => sub { my ($line) = @_; … },
#       check     => sub { my ($ok, $claim, $detail) = @_; … }
#   )->run;
#
# What it claims about a system it reads through that system's own API; our
# tables are read only for claims about our tables.
package SyncExt::MainJob;

use strict;
use utf8;
use warnings;
use parent qw(SyncExt::Story SyncExt::MainJob::App);

use Carp qw(croak);
use File::Path qw(make_path);
use JSON::PP;
use Math::BigFloat;
use Time::HiRes qw(sleep time);

my $TAX_PERCENT = 20;

# Statuses of an invoice that the customer has got, so that the ERP gets it.
my $FINAL = q('open', 'partially_paid', 'paid', 'uncollectible');

my $POISON = SyncExt::MainJob::App::POISON;
my $RENAMED = 'C-0004';
my @CHANGED = qw(C-0002 C-0003 C-0005);

my $JSON = JSON::PP->new->canonical->allow_nonref;

sub new
{
	my ($class, %option) = @_;
	my $self = bless {
		customers => 200,
		app       => 'shop',
		patience  => 120,
		say       => sub { },
		%option
	}, $class;

	foreach my $name (qw(dsn secrets tryton sandbox check))
	{
		defined $self->{$name} or croak "missing: $name";
	}
	$self->{first} = int($self->{customers} * 0.6);
	return $self;
}

sub run
{
	my ($self) = @_;

	$self->set_up;
	$self->first_customers;
	$self->erp_goes_away;
	$self->billing_bills;
	$self->invoices_come_back;
	$self->erp_comes_back;
	$self->invoices_are_posted;
	$self->states_come_back;
	$self->rename_travels;
	$self->nothing_twice;
	$self->tables;
	$self->books;
	return;
}

#----------------------------------------------------------------------
# Talking to the database and to the reader
#----------------------------------------------------------------------

# As the person who runs the hub.
sub admin { my ($self, $sql) = @_; return $self->psql($sql, user => 'hub_admin') }

#----------------------------------------------------------------------
# Asking the systems
#----------------------------------------------------------------------

# All objects of a kind in billing, page by page.
sub in_billing
{
	my ($self, $kind) = @_;
	my (@all, %after);

	for (;;)
	{
		my $page = $self->{sandbox}->stripe(GET => "/v1/$kind", { limit => 100, %after });
		push @all, @{ $page->{data} };
		return \@all if !$page->{has_more};
		%after = (starting_after => $all[-1]{id});
	}
}

sub billing_counts
{
	my ($self) = @_;
	return join ', ', map { scalar(@{ $self->in_billing($_) }) . " $_" } qw(customers subscriptions);
}

sub billing_customer
{
	my ($self, $number) = @_;
	my ($customer) = grep { ($_->{metadata}{number} // '') eq $number } @{ $self->in_billing('customers') };
	return $customer;
}

sub parties_in_erp
{
	my ($self) = @_;
	sleep 0.5;
	return $self->{tryton}->model('party.party.search_count', [ [ 'code', '!=', 'COMPANY' ] ]);
}

sub party
{
	my ($self, $number) = @_;
	my ($party) = grep { $_->{code} eq $number } @{ $self->{tryton}->parties };
	return $party;
}

# Totals, currency => amount, of issued invoices in each of the three places.
sub billing_totals
{
	my ($self) = @_;
	my %sum;

	foreach my $invoice (@{ $self->in_billing('invoices') })
	{
		$sum{ uc $invoice->{currency} } += $invoice->{total} if $invoice->{status} =~ /^(open|paid|uncollectible)$/;
	}
	foreach my $currency (keys %sum)
	{
		my $digits = $self->digits($currency);
		$sum{$currency} = Math::BigFloat->new($sum{$currency})->bdiv(10**$digits)->bfround(-$digits)->bstr;
	}
	return %sum;
}

sub canonical_totals
{
	my ($self) = @_;
	my $sums = $self->rows("SELECT currency, sum(total_amount)::text AS total FROM canonical.invoice WHERE status IN ($FINAL) GROUP BY 1");
	return map { $_->{currency} => $_->{total} } @$sums;
}

sub erp_totals { my ($self) = @_; return %{ $self->{tryton}->totals_by_currency } }

sub money
{
	my (%sum) = @_;
	return join ', ', map { "$_ $sum{$_}" } sort keys %sum;
}

#----------------------------------------------------------------------
# The database learns of the systems
#----------------------------------------------------------------------

sub set_up
{
	my ($self) = @_;
	my ($erp, $billing) = @$self{qw(tryton sandbox)};
	my $ids = $erp->ids;
	my $erp_url = $erp->base . '/' . $erp->db;
	my $billing_url = $billing->url;
	my $hosts = join ',', map { 'http://127.0.0.1:' . $_->port } $erp, $billing;

	$self->step('The database is told of two systems',
		'billing speaks Stripe (the sandbox), erp is a real Tryton. A system is a foreign server; a secret is a file',
		'that the server option names. Routes say what is sent, streams what is read.');
	$self->secret('billing', 'api_key', $billing->api_key);
	$self->secret('erp', 'password', $erp->password);
	$billing->config(tax_percent => $TAX_PERCENT);

	# What only a superuser does, and what the hub's administrator does. One request at a time for
	# the ERP: on SQLite Tryton gives two invoices that are posted at once the same number.
	$self->psql(<<"EOF");
CREATE EXTENSION sync_ext;
ALTER SYSTEM SET sync_ext.allowed_hosts = '$hosts';
SELECT pg_reload_conf();
CREATE ROLE hub_admin LOGIN IN ROLE sync_admin;
CREATE ROLE $self->{app} LOGIN IN ROLE sync_app;
DO \$\$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO hub_admin', current_database()); END \$\$;
EOF
	$self->admin(<<"EOF");
SELECT sync.adopt_cluster();
SELECT sync.create_canonical_model();
SELECT sync.register_connector('stripe'), sync.register_connector('tryton');
INSERT INTO canonical.legal_entity (code, name, country, functional_currency, timezone)
VALUES ('DE', 'Demo GmbH', 'DE', 'EUR', 'Europe/Berlin');
SELECT sync.track(('canonical.' || t)::regclass)
  FROM unnest('{legal_entity,customer,product,price,contract,subscription,invoice,payment,payment_allocation}'::text[]) t;

CREATE SERVER billing FOREIGN DATA WRAPPER sync_ext
    OPTIONS (connector 'stripe', base_url '$billing_url', legal_entity 'DE', rate_limit '200/s');
CREATE USER MAPPING FOR PUBLIC SERVER billing OPTIONS (api_key 'file:api_key');
CREATE SERVER erp FOREIGN DATA WRAPPER sync_ext
    OPTIONS (connector 'tryton', base_url '$erp_url', legal_entity 'DE', max_in_flight '1',
             company '$ids->{company}', journal '$ids->{journal}', receivable_account '$ids->{account}{receivable}',
             revenue_account '$ids->{account}{revenue}', tax_account '$ids->{account}{tax}');
CREATE USER MAPPING FOR PUBLIC SERVER erp OPTIONS (password 'file:password');

SELECT sync.create_route('billing', o) FROM unnest('{customer,product,price,subscription}'::text[]) o;
SELECT sync.create_route('erp', 'customer'),
       sync.create_route('erp', 'invoice', \$\$status IN ($FINAL)\$\$);
SELECT sync.create_stream('billing', o, '15 s')
  FROM unnest('{customer,subscription,invoice,payment,payment_allocation}'::text[]) o;
SELECT sync.create_stream('erp', o, '15 s') FROM unnest('{customer,invoice}'::text[]) o;
EOF
	$self->eventually('the hub runs and may speak', 'running true',
		"SELECT t.state || ' ' || h.speaks FROM sync.worker t, sync.hub_status() h WHERE t.database = current_database()", 30);
	return;
}

# Streams read by themselves every some seconds; a person who watches asks for it.
sub pull_now
{
	my ($self, $system) = @_;
	$self->psql("SELECT sync.request_pull(system, object) FROM sync.stream_status WHERE system = '$system';");
	return;
}

sub secret
{
	my ($self, $system, $name, $value) = @_;
	my $dir = "$self->{secrets}/$system";

	make_path($dir, { mode => 0700 });
	open my $file, '>', "$dir/$name" or croak "cannot write $dir/$name: $!";
	chmod 0600, "$dir/$name";
	print $file $value;
	close $file or croak "cannot write $dir/$name: $!";
	return;
}

#----------------------------------------------------------------------
# Customers go out; one system goes away meanwhile
#----------------------------------------------------------------------

sub first_customers
{
	my ($self) = @_;
	my $count = $self->{first};
	my $good = $count - 1;

	$self->step("The app writes $count customers, each with a contract and a subscription",
		'Plain INSERTs by a role that has sync_app only. The way to billing is bad: some answers are lost after the',
		'request took effect, some requests are refused for the moment. One customer is poisonous: its e-mail address',
		'is none. Nothing may be lost or done twice, and the poison may hold up nobody else.');
	foreach my $fault (
		{ kind => 'reset_after', match => { method => 'POST', path => '/v1/customers', every => 5 }, times => 5 },
		{ kind => 'reset_mid_body', match => { method => 'POST', path => '/v1/subscriptions', every => 5 }, times => 4 },
		{ kind => 'status', status => 429, headers => { 'Retry-After' => '1' }, match => { method => 'POST', path => '/v1/*', every => 7 }, times => 4 },
		{ kind => 'status', status => 503, match => { method => 'POST', path => '/v1/*', every => 11 }, times => 3 })
	{
		$self->{sandbox}->fault(%$fault);
	}
	$self->write_catalogue;
	$self->write_customers(1, $count);

	$self->eventually("billing has $good customers and their subscriptions, all but the poisonous one",
		"$good customers, $good subscriptions", sub { $self->billing_counts });
	$self->eventually('the poisonous one is a dead letter', 1, 'SELECT count(*) FROM sync.dead_letter');
	$self->eventually("the ERP has $count parties", $count, sub { $self->parties_in_erp });
	return;
}

sub changed_addresses { return join ' ', map { 'accounts2.' . lc . '@example.com' } @CHANGED }

# The changed addresses among records of a system.
sub addresses_in
{
	my ($records) = @_;
	return join ' ', sort grep { /^accounts/ } map { $_->{email} // '' } @$records;
}

sub erp_goes_away
{
	my ($self) = @_;
	my $good = $self->{customers} - 1;
	my $changed = join ', ', map { "'$_'" } @CHANGED;

	$self->step('The ERP is stopped; the app goes on writing and notices nothing',
		'It adds the other customers and changes three of the first ones, twice. Billing gets it all at once.');
	$self->{tryton}->stop;
	$self->write_customers($self->{first} + 1, $self->{customers});
	foreach my $round (1, 2)
	{
		$self->app("UPDATE canonical.customer SET billing_email = 'accounts$round.' || lower(number) || '\@example.com' WHERE number IN ($changed);");
	}
	$self->eventually("billing has $good customers and their subscriptions", "$good customers, $good subscriptions",
		sub { $self->billing_counts });
	$self->eventually('billing has the changed e-mail addresses', changed_addresses(),
		sub { addresses_in($self->in_billing('customers')) });
	return;
}

#----------------------------------------------------------------------
# Billing does its work, and it comes back
#----------------------------------------------------------------------

sub billing_bills
{
	my ($self) = @_;

	$self->step('Billing issues invoices and takes payments', 'All of this happens in the billing system. Some cards are declined there; half of the customers are on a free trial.');
	foreach my $customer (grep { $_->{metadata}{number} =~ /7$/ } @{ $self->in_billing('customers') })
	{
		$self->{sandbox}->stripe(POST => "/v1/customers/$customer->{id}", { metadata => { sandbox_payment => 'fail' } });
	}
	my $due = $self->psql('SELECT count(*) FROM canonical.subscription WHERE trial_end IS NULL;');
	my $run = $self->{sandbox}->bill;
	@$self{qw(invoices paid failed)} = @$run{qw(invoices paid failed)};
	$self->is($run->{invoices}, $due, "$run->{invoices} invoices, one for each subscription without a trial");
	$self->check($run->{failed} > 0 && $run->{paid} > $run->{failed},
		"$run->{paid} are paid, $run->{failed} payments failed, " . ($run->{open} - $run->{failed}) . ' are to be paid by transfer');
	return;
}

sub invoices_come_back
{
	my ($self) = @_;
	my ($invoices, $paid, $failed) = @$self{qw(invoices paid failed)};
	my $total = money($self->billing_totals);

	$self->pull_now('billing');
	$self->step('They come back into the canonical tables',
		'Streams read what changed in billing: subscriptions, invoices with their lines, payments, allocations.');
	$self->eventually("$invoices invoices are rows of canonical.invoice", $invoices, 'SELECT count(*) FROM canonical.invoice');
	$self->eventually("billing total = canonical total: $total", $total, sub { money($self->canonical_totals) });
	$self->eventually("$failed payments failed, $paid succeeded and are allocated to their invoices", "$failed $paid $paid",
		"SELECT concat_ws(' ', count(*) FILTER (WHERE status = 'failed'), count(*) FILTER (WHERE status = 'succeeded'),
		        (SELECT count(*) FROM canonical.payment_allocation a JOIN canonical.invoice i ON i.id = a.invoice_id WHERE i.status = 'paid' AND a.amount = i.total_amount))
		   FROM canonical.payment");
	my $trials = $self->{customers} - 1 - $invoices;
	$self->eventually('subscriptions are active, past due where the payment failed, or on trial',
		($invoices - $failed) . " active, $failed past_due, $trials trialing",
		"SELECT string_agg(n || ' ' || status, ', ' ORDER BY status)
		   FROM (SELECT status, count(*) AS n FROM canonical.subscription WHERE status <> 'draft' GROUP BY 1) s");
	$self->is($self->psql('SELECT count(*) FROM canonical.invoice i
		WHERE i.net_amount IS DISTINCT FROM (SELECT sum(l.net_amount) FROM canonical.invoice_line l WHERE l.invoice_id = i.id);'),
		0, 'the lines of every invoice sum up to its net amount');
	return;
}

#----------------------------------------------------------------------
# The ERP is back, books the invoices, and says so
#----------------------------------------------------------------------

sub erp_comes_back
{
	my ($self) = @_;
	my $waiting = $self->psql("SELECT count(*) FROM sync._unfinished u JOIN sync.system y ON y.id = u.system_id WHERE y.name = 'erp';");

	$self->step('The ERP is started again', "$waiting deliveries are kept for it. The hub finds out by itself that it is back.");
	$self->{tryton}->start;
	$self->eventually("the ERP has $self->{customers} parties", $self->{customers}, sub { $self->parties_in_erp });
	return;
}

sub invoices_are_posted
{
	my ($self) = @_;
	my $count = $self->{invoices};
	my $told = time;

	$self->step('Every invoice is made a draft in the ERP, read back, compared, and only then posted',
		'Posting is final in a ledger: a difference of a cent would leave the draft and raise a conflict.');
	$self->eventually("$count invoices are posted in the ERP", $count, sub {
		my ($drafts, $posted) = map {
			$self->{tryton}->model('account.invoice.search_count', [ [ 'type', '=', 'out' ], [ 'state', 'in', $_ ] ])
		} [qw(draft validated)], [qw(posted paid)];
		if (time - $told > 10)
		{
			$told = time;
			$self->tell("           … $drafts drafts, $posted posted");
		}
		sleep 1;
		return $posted;
	});
	$self->is($self->psql('SELECT count(*) FROM sync.conflict;'), 0, 'no conflict');
	$self->eventually('addresses that changed while it was away are there in their last state', changed_addresses(),
		sub { addresses_in($self->{tryton}->parties) });
	return;
}

sub states_come_back
{
	my ($self) = @_;
	my $count = $self->{invoices};

	$self->step("The ERP's numbers and states come back", "Billing's word on an invoice is status, the ERP's is posting_status.");
	$self->pull_now('erp');
	$self->eventually("$count invoices are marked posted, with posting date and accounting period", $count,
		"SELECT count(*) FROM canonical.invoice
		  WHERE posting_status = 'posted' AND posting_date IS NOT NULL AND accounting_period IS NOT NULL");
	my $numbers = join ' ', sort map { "$_->{reference}=" . ($_->{number} // '') } @{ $self->{tryton}->invoices };
	my $of_erp = "sync.external_id x ON x.record_id = i.id::text JOIN sync.system y ON y.id = x.system_id AND y.name = 'erp'";
	$self->eventually("the ERP's invoice numbers stand in the cross-reference beside billing's", $numbers,
		"SELECT string_agg(p.pair, ' ' ORDER BY p.pair COLLATE \"C\")
		   FROM (SELECT i.number || '=' || x.remote_number AS pair FROM canonical.invoice i JOIN $of_erp) p");
	$self->show('Three of them',
		"SELECT i.number, c.name AS customer, i.total_amount AS total, i.currency, i.status AS billing_says, i.posting_status AS erp_says,
		        i.posting_date, x.remote_number AS erp_number
		   FROM canonical.invoice i JOIN canonical.customer c ON c.id = i.customer_id JOIN $of_erp
		  WHERE c.number IN ('C-0001', 'C-0007', 'C-0008') ORDER BY c.number");
	return;
}

#----------------------------------------------------------------------
# A change that begins in the ERP
#----------------------------------------------------------------------

sub rename_travels
{
	my ($self) = @_;
	my $name = 'Ångström & Daughters';

	$self->step("A clerk renames customer $RENAMED in the ERP",
		'The name has to reach the canonical table and billing, and must not bounce back into the ERP.');
	$self->{tryton}->rename_party($RENAMED, $name);
	my $written = $self->party($RENAMED)->{write_date};
	my $customer = $self->billing_customer($RENAMED)->{id};
	my $effects = @{ $self->{sandbox}->effects('customer', $customer) };

	$self->pull_now('erp');
	$self->eventually("the canonical customer is now $name", $name, "SELECT name FROM canonical.customer WHERE number = '$RENAMED'", 30);
	$self->eventually('and so is the one in billing', $name, sub { $self->billing_customer($RENAMED)->{name} }, 30);

	# Let every stream read twice more: time for an echo, if there were one.
	foreach my $round (1, 2)
	{
		$self->pull_now($_) foreach qw(billing erp);
		$self->psql("SELECT sync.wait_idle('30 s');");
	}
	$self->is($self->party($RENAMED)->{write_date}, $written, 'nothing was written back to the ERP');
	$self->is(@{ $self->{sandbox}->effects('customer', $customer) } - $effects, 1, 'billing was written to once');
	return;
}

#----------------------------------------------------------------------
# Nothing lost, nothing twice
#----------------------------------------------------------------------

sub nothing_twice
{
	my ($self) = @_;

	$self->step('Was anything lost, or done twice?',
		'Billing counts what took effect under each idempotency key; both systems are searched for duplicates.');
	$self->is($self->psql("SELECT sync.wait_idle('60 s');"), 't', 'nothing is on its way any more');

	my $keys = $self->{sandbox}->keys;
	my @twice = grep { $_->{executions} > 1 || $_->{mismatches} } @$keys;
	my $replayed = grep { $_->{replays} } @$keys;
	$self->check(!@twice, @$keys . ' idempotency keys, none took effect twice', $JSON->encode(\@twice));
	$self->check($replayed > 0, "$replayed of them were repeated after their answer was lost, and did nothing the second time",
		'no repeat was seen');

	my %ours = (
		customers => "canonical.customer WHERE number <> '$POISON'",
		prices => 'canonical.price',
		products => 'canonical.product',
		subscriptions => "canonical.subscription WHERE number <> 'S' || substr('$POISON', 2)",
	);
	foreach my $kind (sort keys %ours)
	{
		my $expected = $self->psql("SELECT string_agg(id::text, ' ' ORDER BY id::text COLLATE \"C\") FROM $ours{$kind};");
		my @found = sort map { $_->{metadata}{sync_id} // "stranger $_->{id}" } @{ $self->in_billing($kind) };
		$self->is("@found", $expected, @found . " $kind, each is in billing exactly once");
	}

	my $expected = $self->psql('SELECT string_agg(number, \' \' ORDER BY number COLLATE "C") FROM canonical.customer;');
	my @found = sort map { $_->{code} } @{ $self->{tryton}->parties };
	$self->is("@found", $expected, @found . ' customers, each is in the ERP exactly once');
	$expected = join ' ', sort map { $_->{number} } @{ $self->in_billing('invoices') };
	my $invoices = $self->{tryton}->invoices;
	@found = sort map { $_->{reference} } @$invoices;
	$self->is("@found", $expected, @found . ' invoices, each is in the ERP exactly once');
	my %number = map { $_->{number} => 1 } @$invoices;
	$self->is(scalar keys %number, scalar @$invoices, "and each has an ERP number of its own");

	$self->is($self->psql("SELECT string_agg(object || ' ' || record_number, ', ') FROM sync.dead_letter;"),
		"customer $POISON", 'the poison is the only dead letter');
	$self->is($self->psql('SELECT count(*) FROM sync.inbox;'), 0, 'nothing that came in was left unapplied');
	my $violations = $self->psql("SELECT string_agg(invariant || ': ' || detail, E'\\n') FROM sync.check_invariants();");
	$self->check($violations eq '', 'sync.check_invariants() finds nothing', $violations);
	return;
}

#----------------------------------------------------------------------
# Tables for a person
#----------------------------------------------------------------------

sub tables
{
	my ($self) = @_;

	$self->step('What an operator sees', 'All of it are views in schema sync.');
	$self->show('sync.system_status: the systems',
		'SELECT system, connector, mode, routes, streams, bound, waiting, dead, conflict, inbox FROM sync.system_status ORDER BY 1');
	$self->show('sync.delivery: by route and state, and the seconds from commit to done',
		"SELECT route, state, count(*) AS deliveries, count(DISTINCT record_id) AS records,
		        round(percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM ended_at - event_at))::numeric, 1) AS median_s,
		        round(max(extract(epoch FROM ended_at - event_at)), 1) AS longest_s
		   FROM sync.delivery GROUP BY 1, 2 ORDER BY 1, 2");
	$self->show('sync.stream_status: what is read back',
		'SELECT system, object, state, pages, records, inbox FROM sync.stream_status ORDER BY 1, 2');
	$self->show("sync.dead_letter: the poison, with the vendor's own reason",
		'SELECT system, object, record_number AS number, status, code, message, how_to_retry FROM sync.dead_letter ORDER BY 1, 2, 3');
	$self->show('sync.record_status: what waits for it',
		"SELECT system, object, record_number AS number, state, waiting_for FROM sync.record_status WHERE state NOT IN ('synced', 'dead') ORDER BY 1, 2, 3");
	return;
}

sub books
{
	my ($self) = @_;
	my @place = (
		{ $self->billing_totals },
		{ $self->canonical_totals },
		{ $self->erp_totals });
	my %seen = map { %$_ } @place;
	my @line = sprintf '   %-8s %15s %15s %15s', 'currency', 'billing', 'canonical', 'ERP, posted';
	my $different = 0;

	foreach my $currency (sort keys %seen)
	{
		my @total = map { $_->{$currency} // '-' } @place;
		my $equal = $total[0] eq $total[1] && $total[1] eq $total[2];
		$different++ if !$equal;
		push @line, sprintf '   %-8s %15s %15s %15s  %s', $currency, @total, $equal ? 'equal' : 'DIFFERENT';
	}
	$self->step('The books', 'Billing and ERP are asked through their own APIs.');
	$self->tell('', @line, '');
	$self->check(!$different && keys %seen >= 3, 'billing total = canonical total = ERP total in every currency', join "\n", @line);
	return;
}

1;
