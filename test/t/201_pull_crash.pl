# The hub dies while it pulls, at each point of a page: every row once, the
# cursor behind the last page that is in, and nothing goes on twice.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use JSON::PP;
use SyncExt::Hub;
use Test::More;

my $json = JSON::PP->new->utf8->canonical;
my $hub = SyncExt::Hub->new('main', systems => []);
my $sandbox = $hub->sandbox;
my $node = $hub->node;
my $manifest = $json->decode(SyncExt::Hub::manifest('rest'));
my $round = 0;

$manifest->{objects}{customer}{pull}{list}{page_size} = 10;
$manifest->{name} = 'paged';
my $text = $json->encode($manifest);
$hub->sql("SELECT sync.register_connector(\$manifest\$$text\$manifest\$::jsonb);
	ALTER TABLE app.customer DROP CONSTRAINT customer_number_key");
$node->secret('crm', 'token', $SyncExt::Hub::REST_TOKEN);
$hub->sql("CREATE SERVER crm FOREIGN DATA WRAPPER sync_ext OPTIONS (connector 'paged', base_url '" . $sandbox->url . "', rate_limit '1000/s');
	CREATE USER MAPPING FOR PUBLIC SERVER crm OPTIONS (token 'file:token');
	SELECT sync.create_route('crm', 'customer');
	SELECT sync.create_stream('crm', 'customer')");
$hub->add_system('billing', rate_limit => '1000/s');
$hub->sql(q(SELECT sync.create_route('billing', 'customer')));

sub records { return $hub->value('SELECT count(*) FROM app.customer') }

# What is wrong with the rows, the bindings and what billing got, compared with the vendor's list.
sub wrong
{
	my @wrong;
	my %name;
	my $page = 1;

	while ($page)
	{
		my $list = $sandbox->rest(GET => "/customers?per_page=1000&page=$page");
		$name{ $_->{id} } = $_->{name} foreach @{ $list->{data} };
		$page = $list->{next_page};
	}
	my %row = map { split /\|/, $_, 2 } split /\n/, $hub->sql("SELECT x.remote_id, c.name FROM app.customer c
		JOIN sync.external_id x ON x.record_id = c.id::text JOIN sync.system y ON y.id = x.system_id AND y.name = 'crm'");
	foreach my $id (keys %name)
	{
		push @wrong, "$id is missing" if !defined $row{$id};
		push @wrong, "$id is $row{$id}, not $name{$id}" if defined $row{$id} && $row{$id} ne $name{$id};
	}
	push @wrong, records() . ' rows for ' . keys(%name) . ' records' if records() != keys %name;
	my %billed;
	$billed{ $_->{metadata}{sync_id} }++ foreach grep { $_->{method} eq 'POST' && $_->{path} eq '/v1/customers' } @{ $sandbox->effects };
	push @wrong, 'billing has ' . keys(%billed) . ' of them' if keys %billed != keys %name;
	push @wrong, map { "$_ was made $billed{$_} times" } grep { $billed{$_} > 1 } keys %billed;
	push @wrong, map { "invariant $_" } split /\n/, $hub->sql('SELECT * FROM sync.check_invariants()');
	return @wrong;
}

sub new_records
{
	$round++;
	$sandbox->rest(POST => '/customers', { name => "Round $round, $_", email => "r${round}_$_\@example.com" }) foreach 1 .. 35;
	return;
}

foreach my $action (qw(kill error))
{
	foreach my $point (qw(pull_applied pull_before_commit pull_after_commit))
	{
		foreach my $nth (1, 2)
		{
			my $offset = $hub->log_size;
			my $before = records();

			new_records();
			# the page is either the first, or one in the middle of the walk
			if ($nth == 2)
			{
				$sandbox->fault(kind => 'latency', ms => 300, times => -1, match => { path => '/rest/customers', method => 'GET', exact => \1 });
				$hub->sql(q(SELECT sync.request_pull('crm', 'customer')));
				$hub->poll_until(q(SELECT c.cursor ? 'page' FROM sync.stream_cursor c));
				$hub->arm($point, $action);
			}
			else
			{
				$hub->arm($point, $action);
				# A poll of its own time may come first, and the crash end our session.
				eval { $hub->sql(q(SELECT sync.request_pull('crm', 'customer'))) };
			}
			if ($action eq 'kill')
			{
				$hub->wait_crash($point, $offset);
			}
			else
			{
				$hub->wait_until("$point to fire", sub { !$hub->armed($point) });
			}
			$sandbox->clear_faults;
			$hub->wait_idle(120);
			is_deeply([ wrong() ], [], "$action at $point of " . ($nth == 1 ? 'the first page' : 'a later page'));
			is(records(), $before + 35, 'each record once');
			is($hub->value(q(SELECT c.cursor ? 'page' FROM sync.stream_cursor c)), 'f', 'the walk has ended');
		}
	}
}

# In the middle of the walk, while a page is on its way.
foreach my $n (1 .. 3)
{
	new_records();
	$sandbox->fault(kind => 'latency', ms => 500, times => -1, match => { path => '/rest/customers', method => 'GET', exact => \1 });
	$hub->sql(q(SELECT sync.request_pull('crm', 'customer')));
	$hub->poll_until(q(SELECT c.cursor ? 'page' FROM sync.stream_cursor c));
	$node->kill9_worker('sync_ext hub%');
	$sandbox->clear_faults;
	$hub->wait_up;
	$hub->wait_idle(120);
	is_deeply([ wrong() ], [], "killed while a page is read, $n");
}

# Immediate stop of all.
new_records();
$hub->arm('pull_before_commit', 'wait');
$hub->sql(q(SELECT sync.request_pull('crm', 'customer')));
$hub->reached('pull_before_commit');
$hub->power_off;
$hub->disarm('pull_before_commit');
$node->start;
$hub->wait_up;
$hub->wait_idle(120);
is_deeply([ wrong() ], [], 'the machine stops before a page commits');

# The connector is registered anew while a page is applied and the next one is on its way: that one is
# read by the manifest that asked for it, and applied.
new_records();
my $walks = $hub->log_size;
foreach my $version (2 .. 4)
{
	$manifest->{version} = "$version";
	$text = $json->encode($manifest);
	new_records();
	$hub->arm('pull_before_commit', 'wait');
	$hub->sql(q(SELECT sync.request_pull('crm', 'customer')));
	$hub->reached('pull_before_commit');
	$hub->sql("SELECT sync.register_connector(\$m\$$text\$m\$::jsonb)");
	$hub->disarm('pull_before_commit');
	$hub->wait_idle(120);
	is_deeply([ wrong() ], [], "the connector is registered anew in the middle of a walk, $version");
}
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile, $walks), qr/terminated by signal/, 'and the hub survives it');

$node->stop;
done_testing();
