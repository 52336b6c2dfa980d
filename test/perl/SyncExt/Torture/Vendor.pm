# The vendors of the torture test: how they speak, how they misbehave, and what they change by
# themselves.
package SyncExt::Torture::Vendor;

use strict;
use warnings;

use JSON::PP;
use PostgreSQL::Test::Utils ();
use SyncExt::Hub;

my $json = JSON::PP->new->utf8->canonical;
our %header = ('X-Sandbox-Actor' => 'vendor');

# ---- manifests ----

sub rest { return SyncExt::Hub::manifest('torture_rest') }
sub batch { return SyncExt::Hub::manifest('torture_batch') }

# The shipped connector, with the app's columns, a key that soon dies, and a journal that is not
# read back for a minute each second.
sub stripe
{
	my ($lifetime) = @_;
	my $m = $json->decode(SyncExt::Hub::manifest('stripe'));
	my %object = map { $_ => $m->{objects}{$_} } qw(customer price subscription);

	$m->{name} = 'torture_stripe';
	$m->{version} = '1';
	$m->{idempotency}{lifetime} = "$lifetime s";
	$m->{objects} = \%object;
	$m->{define} = {
		customer_body => { name => '$.new.name', description => '$.new.note', metadata => { sync_id => '$.id', number => '$.new.number' } },
		price_body => { nickname => '$.new.code', metadata => { sync_id => '$.id', code => '$.new.code', note => '$.new.note' } },
		subscription_metadata => { sync_id => '$.id', number => '$.new.number' },
		new_item => { price => { '$' => '$.price_id', ref => 'price', required => JSON::PP::true },
			quantity => '$.quantity', metadata => { sync_id => '$.id' } },
	};
	$object{price}{push}{operations}{create}{body} = { '$merge' => [ { '$use' => 'price_body' },
		{ product_data => { name => '$.new.code' }, currency => 'usd', unit_amount => 1000, recurring => { interval => 'month' } } ] };
	my $steps = $object{subscription}{push}{operations};
	delete $steps->{cancel};
	$object{subscription}{push}{plan} = { create => ['create'], update => ['update'], delete => ['delete'] };
	delete $steps->{$_}{unless} foreach qw(create update delete);
	delete $steps->{create}{body}{$_} foreach qw(collection_method days_until_due trial_end cancel_at);
	delete $steps->{update}{body}{cancel_at};
	$steps->{$_}{body}{description} = '$.new.note' foreach qw(create update);
	$object{customer}{pull}{fields} = { name => '$.name', note => '$.description', number => { '$' => '$.metadata.number', omit => 'empty' } };
	$object{subscription}{pull}{fields} = { note => '$.description', number => '$.metadata.number' };
	$object{subscription}{pull}{on_missing} = 'inbox';
	foreach my $pull (map { $object{$_}{pull} } qw(customer subscription))
	{
		delete $pull->{match};
		delete $pull->{record}{number};
		$pull->{on_delete} = 'ignore';
		$pull->{cursor}{lookback} = '6 s';
	}
	return $json->encode($m);
}

# ---- misbehaviour ----

# Each fault with the share of requests that meet it in ordinary times. Effects after a time-out come
# well before the systems' settle time is over, which is what a settle time promises.
my @fault = (
	[ 0.5, { kind => 'latency', ms => 0, jitter_ms => 150 } ],
	[ 0.02, { kind => 'latency', ms => 300, jitter_ms => 600 } ],
	[ 0.2, { kind => 'late_page', ms => 900 }, { method => 'GET' } ],
	[ 0.02, { kind => 'status', status => 429, headers => { 'Retry-After' => '1' }, body => '{}' } ],
	[ 0.01, { kind => 'status', status => 503, body => '{"message": "down"}' } ],
	[ 0.01, { kind => 'status', status => 500, body => 'oops', effect => JSON::PP::true } ],
	[ 0.01, { kind => 'reset_before' } ],
	[ 0.01, { kind => 'reset_after' } ],
	[ 0.006, { kind => 'reset_mid_body' } ],
	[ 0.006, { kind => 'truncated' } ],
	[ 0.006, { kind => 'garbage', effect => JSON::PP::true } ],
	[ 0.006, { kind => 'slow_effect', ms => 700 } ],
	[ 0.006, { kind => 'timeout_after_effect', ms => 3000 } ],
	[ 0.008, { kind => 'late_effect', ms => 500, hold_ms => 50 } ],
	[ 0.004, { kind => 'late_effect', ms => 300, hold_ms => 50, status => 504 } ],
);

# weight: 0 nothing but latency, 1 ordinary, more: a storm. down: nothing gets through.
sub misbehave
{
	my ($sandbox, $weight, $down) = @_;
	my @rules;

	push @rules, { kind => 'reset_before', times => -1, match => { path => $_ } } foreach $down ? "/$down" : ();
	foreach my $fault (@fault)
	{
		my ($share, $rule, $match) = @$fault;
		my $modifies = $rule->{kind} =~ /^late(ncy|_page)$/;
		my $probability = $modifies ? $share : $share * $weight;

		push @rules, { %$rule, times => -1, match => { probability => $probability, %{ $match // {} } } } if $probability > 0;
	}
	$sandbox->clear_faults;
	$sandbox->fault(%$_) foreach @rules;
	return;
}

# ---- changes of their own ----

# Calls this until it is told to stop; its choices follow from its seed, among what there is.
sub new
{
	my ($class, $sandbox, $seed) = @_;

	srand($seed * 1000 + 999);
	return bless { sandbox => $sandbox, n => 0, made => 0, ids => {} }, $class;
}

sub live_rest
{
	my ($sandbox, $collection) = @_;
	my @rows;

	for (my $page = 1; $page; )
	{
		my $answer = $sandbox->rest(GET => "/$collection?per_page=500&page=$page", undef, { %header, Authorization => "Bearer $SyncExt::Hub::REST_TOKEN" });
		push @rows, @{ $answer->{data} };
		$page = $answer->{next_page};
	}
	return @rows;
}

sub live_stripe
{
	my ($sandbox, $collection) = @_;
	my @rows;
	my %after;

	while (1)
	{
		my $answer = $sandbox->stripe(GET => "/v1/$collection", { limit => 100, %after, $collection eq 'subscriptions' ? (status => 'all') : () }, {%header});
		push @rows, @{ $answer->{data} };
		last if !$answer->{has_more};
		%after = (starting_after => $rows[-1]{id});
	}
	return @rows;
}

# One change of a record that is there, or a record of the vendor's own making.
sub change
{
	my ($self, $may_make) = @_;
	my ($sandbox) = $self->{sandbox};
	my $n = ++$self->{n};
	my ($system, $collection) = (qw(rest rest rest stripe stripe))[ int rand 5 ];
	my %auth = (%header, Authorization => "Bearer $SyncExt::Hub::REST_TOKEN");

	$collection = $system eq 'rest' ? (qw(customers prices subscriptions))[ int rand 3 ] : (qw(customers subscriptions))[ int rand 2 ];
	if ($may_make && rand() < 0.2)
	{
		$self->{made}++;
		return $sandbox->rest(POST => '/customers', { name => "Vendor rest $n", note => "made $n" }, \%auth) if $system eq 'rest';
		return $sandbox->stripe(POST => '/v1/customers', { name => "Vendor stripe $n", description => "made $n" }, {%header});
	}
	if ($n % 15 == 1 || !$self->{ids}{"$system $collection"})
	{
		my @rows = $system eq 'rest' ? live_rest($sandbox, $collection) : live_stripe($sandbox, $collection);
		$self->{ids}{"$system $collection"} = [ map { $_->{id} } grep { ($_->{status} // '') ne 'canceled' } @rows ];
	}
	my $ids = $self->{ids}{"$system $collection"};
	my $id = $ids->[ int rand(@$ids || 1) ] // return;
	return $sandbox->rest(PATCH => "/$collection/$id", { note => "rest $n" }, \%auth) if $system eq 'rest';
	return $sandbox->stripe(POST => "/v1/$collection/$id", { description => "stripe $n" }, {%header});
}

1;
