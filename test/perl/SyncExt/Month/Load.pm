# The healthy month: billing and ERP are loaded in bulk, the hub learns of it as it would learn of
# anything, by pulling; what the company's own application and its books hold is written in SQL.
package SyncExt::Month::Load;

use strict;
use utf8;
use warnings;

use Carp qw(croak);
use File::Path qw(make_path);
use POSIX qw(strftime);

# Objects that are pulled, those that others refer to first.
our @FROM_BILLING = qw(customer subscription invoice payment payment_allocation credit_note payout balance_transaction);
our @FROM_ERP = qw(customer invoice credit_note payment);
our @TRACKED = qw(legal_entity customer product price contract subscription amendment invoice payment payment_allocation
  credit_note payout balance_transaction tax_determination revenue_schedule gl_entry entitlement collection_case);

# Statuses of an invoice that the customer has got, so that the ERP gets it.
our $FINAL = q('open', 'partially_paid', 'paid', 'uncollectible');

sub new
{
	my ($class, $month) = @_;
	return bless { month => $month, objects => 0, records => 0 }, $class;
}

sub run
{
	my ($self) = @_;
	my $month = $self->{month};

	$month->step("A company of $month->{customers} customers, seed $month->{seed}");
	$month->timed('the company is thought up', sub { $self->company });
	$month->timed('the hub is told of the systems', sub { $self->set_up });
	$month->timed('its catalogue is pushed to billing', sub { $self->catalogue });
	$month->timed('billing is loaded', sub { $self->billing });
	$month->timed("billing is pulled, $self->{objects} objects", sub { $self->pull('billing', @FROM_BILLING) });
	$month->timed('the ERP is loaded', sub { $self->erp });
	$month->timed("the ERP is pulled, $self->{records} records", sub { $self->pull('erp', @FROM_ERP) });
	$month->timed('books are kept', sub { $month->script('06_books', first => 'true') });
	$month->timed('routes are opened', sub { $self->open_routes });
	$month->script('07_targets');
	$self->counts;
	return;
}

sub systems
{
	my ($self, $kind) = @_;
	return map { lc "${kind}_$_" } sort keys %{ $self->{month}{$kind} };
}

#----------------------------------------------------------------------
# The hub learns of the systems
#----------------------------------------------------------------------

sub secret
{
	my ($self, $system, $name, $value) = @_;
	my $dir = "$self->{month}{secrets}/$system";

	make_path($dir, { mode => 0700 });
	open my $file, '>', "$dir/$name" or croak "cannot write $dir/$name: $!";
	chmod 0600, "$dir/$name";
	print $file $value;
	close $file or croak "cannot write $dir/$name: $!";
	return;
}

sub set_up
{
	my ($self) = @_;
	my $month = $self->{month};
	my @vendor = (values %{ $month->{billing} }, values %{ $month->{erp} });
	my $hosts = join ',', map { 'http://127.0.0.1:' . $_->port } @vendor;
	my $tables = join ',', @TRACKED;

	$month->psql(<<"EOF");
CREATE EXTENSION sync_ext;
ALTER SYSTEM SET sync_ext.allowed_hosts = '$hosts';
SELECT pg_reload_conf();
CREATE ROLE controller LOGIN IN ROLE sync_approver, sync_operator;
SELECT sync.adopt_cluster();
SELECT sync.create_canonical_model();
SELECT sync.register_connector('stripe'), sync.register_connector('tryton');
SELECT sync.track(('canonical.' || t)::regclass) FROM unnest('{$tables}'::text[]) t;
INSERT INTO canonical.legal_entity (id, code, name, country, functional_currency, timezone)
SELECT id, code, name, country, currency, timezone FROM month.entity;
EOF
	$self->declare($_) foreach sort keys %{ $month->{billing} };
	$month->eventually('the hub runs and may speak', 'running true',
		"SELECT t.state || ' ' || h.speaks FROM sync.worker t, sync.hub_status() h WHERE t.database = current_database()", 30);
	return;
}

# The billing account and the ERP of one legal entity.
sub declare
{
	my ($self, $entity) = @_;
	my ($billing, $erp) = map { $self->{month}{$_}{$entity} } qw(billing erp);
	my ($billing_url, $erp_url) = ($billing->url, $erp->base . '/' . $erp->db);
	my $name = lc $entity;
	my $ids = $erp->ids;

	$self->secret("billing_$name", 'api_key', $billing->api_key);
	$self->secret("erp_$name", 'password', $erp->password);
	$self->{month}->psql(<<"EOF");
CREATE SERVER billing_$name FOREIGN DATA WRAPPER sync_ext
    OPTIONS (connector 'stripe', base_url '$billing_url', legal_entity '$entity', rate_limit '1000/s');
CREATE USER MAPPING FOR PUBLIC SERVER billing_$name OPTIONS (api_key 'file:api_key');
CREATE SERVER erp_$name FOREIGN DATA WRAPPER sync_ext
    OPTIONS (connector 'tryton', base_url '$erp_url', legal_entity '$entity', max_in_flight '1', rate_limit '200/s',
             company '$ids->{company}', journal '$ids->{journal}', receivable_account '$ids->{account}{receivable}',
             revenue_account '$ids->{account}{revenue}', tax_account '$ids->{account}{tax}');
CREATE USER MAPPING FOR PUBLIC SERVER erp_$name OPTIONS (password 'file:password');
EOF
	return;
}

#----------------------------------------------------------------------
# The month
#----------------------------------------------------------------------

sub company
{
	my ($self) = @_;
	my $month = $self->{month};
	my $today = $month->{today} // strftime('%Y-%m-%d', gmtime);

	$month->script('01_company', seed => $month->{seed}, customers => $month->{customers}, today => $today);
	$month->script('02_money');
	return;
}

# The application's rows; products and prices go to both billing accounts by the hub's own push.
sub catalogue
{
	my ($self) = @_;
	my $month = $self->{month};

	foreach my $system ($self->systems('billing'))
	{
		$month->psql("SELECT sync.create_route('$system', 'product'), sync.create_route('$system', 'price');");
	}
	$month->script('03_canonical');
	$month->eventually('products and prices are in billing', 't',
		"SELECT count(*) = 2 * ((SELECT count(*) FROM canonical.product) + (SELECT count(*) FROM canonical.price))
		   FROM sync.external_id x JOIN sync.object o ON o.id = x.object_id WHERE o.name IN ('product', 'price')");
	$month->script('04_billing');
	return;
}

# For each entity at once. What it returns is summed.
sub each_entity
{
	my ($self, $work) = @_;
	my ($sum, %child) = (0);

	foreach my $entity (sort keys %{ $self->{month}{billing} })
	{
		pipe my $from, my $to or croak "pipe: $!";
		my $pid = fork // croak "fork: $!";
		if ($pid == 0)
		{
			# Systems that others started are theirs to end.
			my $count = eval { $work->($entity) };
			print STDERR $@ if !defined $count;
			syswrite $to, $count // '';
			POSIX::_exit(defined $count ? 0 : 1);
		}
		close $to;
		$child{$pid} = $from;
	}
	foreach my $pid (sort keys %child)
	{
		$sum += readline($child{$pid}) // croak 'a system could not be loaded';
		waitpid $pid, 0;
	}
	return $sum;
}

sub billing
{
	my ($self) = @_;
	my $month = $self->{month};

	$self->{objects} = $self->each_entity(sub {
		my ($entity) = @_;
		my @objects = split /\n/, $month->psql("SELECT json FROM month.billing WHERE entity = '$entity' ORDER BY place;");
		utf8::encode($_) foreach @objects;
		return $month->{billing}{$entity}->load(\@objects);
	});
	return;
}

# Streams of all accounts; done when each has read to its end and nothing waits.
sub pull
{
	my ($self, $kind, @objects) = @_;
	my $month = $self->{month};
	my @system = $self->systems($kind);

	foreach my $object (@objects)
	{
		$month->psql("SELECT sync.create_stream('$_', '$object', '20 s');") foreach @system;
	}
	my $names = join ', ', map { "'$_'" } @system;
	$month->eventually("$kind has been read", 't',
		"SELECT bool_and(pages > 0 AND finished_at IS NOT NULL AND inbox = 0 AND failures = 0) FROM sync.stream_status WHERE system IN ($names)");
	return;
}

# Into the ERPs' own databases, since they post three invoices a second.
sub erp
{
	my ($self) = @_;
	my $month = $self->{month};

	$month->script('05_erp');
	my @years = split /\n/, $month->psql("SELECT DISTINCT to_char(issue_date, 'YYYY') FROM canonical.invoice UNION SELECT to_char(now(), 'YYYY');");
	$self->{records} = $self->each_entity(sub {
		my ($entity) = @_;
		my @records = split /\n/, $month->psql("SELECT json FROM month.erp WHERE entity = '$entity' ORDER BY place;");
		utf8::encode($_) foreach @records;
		$month->{erp}{$entity}->load(\@records);
		$month->{erp}{$entity}->number_by_month($_) foreach @years;
		$month->{erp}{$entity}->allow_cancelling;
		return scalar @records;
	});
	return;
}

# From now on changes travel.
sub open_routes
{
	my ($self) = @_;
	my $month = $self->{month};

	foreach my $entity (@{ $month->rows('SELECT code, id FROM canonical.legal_entity ORDER BY code') })
	{
		my $name = lc $entity->{code};
		my $ours = "legal_entity_id = '$entity->{id}'";
		$month->psql(<<"EOF");
SELECT sync.create_route('billing_$name', 'customer', \$\$$ours\$\$), sync.create_route('billing_$name', 'subscription', \$\$$ours\$\$),
       sync.create_route('erp_$name', 'customer', \$\$$ours\$\$), sync.create_route('erp_$name', 'invoice', \$\$$ours AND status IN ($FINAL)\$\$),
       sync.create_route('erp_$name', 'credit_note', \$\$number LIKE '$entity->{code}-%' AND status = 'posted'\$\$),
       sync.create_route('erp_$name', 'payment', \$\$$ours AND status = 'succeeded' AND kind <> 'credit'\$\$);
EOF
	}
	return;
}

sub counts
{
	my ($self) = @_;
	my @table = grep { $_ ne 'legal_entity' } @TRACKED;
	my $union = join ' UNION ALL ',
	  map { "SELECT $_ AS place, '$table[$_]' AS object, (SELECT count(*) FROM canonical.$table[$_]) AS records" } 0 .. $#table;

	$self->{month}->show('The month', "SELECT t.object, t.records,
	           (SELECT string_agg(y.name || ' ' || n.bound, ', ' ORDER BY y.name)
	              FROM (SELECT x.system_id, count(*) AS bound FROM sync.external_id x
	                      JOIN sync.object o ON o.id = x.object_id WHERE o.name = t.object GROUP BY 1) n
	              JOIN sync.system y ON y.id = n.system_id) AS bound
	      FROM ($union) t ORDER BY t.place");
	return;
}

1;
